// Quantising one tile by one warp, in registers: numbers -> codes, scales and zeros in the record (SPEC sections 4 and 5).
// What a group must know of itself passes between the four lanes of a quad, nothing else between lanes.
#pragma once

#include "innerq/fragment.cuh"

namespace innerq {

// What the lanes of a quad find out together; lane q of it works for group q of each of its lanes.
// kChooses: the mode may be hybrid.
template <int Part, bool kChooses>
struct TileFlush {
    const TileParts &parts;
    int tile;
    const Warp &warp;
    PerLane<LaneTile> &tiles;
    bool divided;  // by lambda: numbers may have more than 11 bits

    struct Raised {
        float code[kGroups][kOfGroup];
    };
    // How the quad's groups are stored: of the lane's own group, and what its numbers need of all four.
    struct Fits {
        PerLane<GroupFit> own;
        PerLane<Numbers<4>> divisor, inverse, scale, zero;
    };

    INNERQ_HD void run() const {
        PerLane<float> low, high;
        find_extremes(low, high);
        if (kChooses && parts.mode == kHybrid) return run_hybrid(low, high);
        const CodeRange range = range_of(parts.mode, parts.bits);
        const bool asymmetric = parts.mode == kAsymmetric;
        Fits fits;
        fit(parts.mode, range, low, high, fits);
        PerLane<Raised> raised;
        quantise(fits, asymmetric, range, raised);
        warp([&](int lane) {
            store(lane, fits.own[lane].scale, fits.own[lane].zero, asymmetric);
            store_raised(lane, raised[lane]);
        });
    }

    INNERQ_HD void find_extremes(PerLane<float> &low, PerLane<float> &high) const {
        PerLane<Numbers<4>> lows, highs;
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int sub = 0; sub < kGroups; ++sub) {
                const float (&x)[kOfGroup] = tiles[lane].x[sub];
                float least = x[0], most = x[0];
                INNERQ_UNROLL
                for (int k = 1; k < kOfGroup; ++k) least = fminf(least, x[k]), most = fmaxf(most, x[k]);
                lows[lane].of[sub] = least;
                highs[lane].of[sub] = most;
            }
        });
        low = join_over_quad(warp, lows, [](float a, float b) { return fminf(a, b); });
        high = join_over_quad(warp, highs, [](float a, float b) { return fmaxf(a, b); });
    }

    INNERQ_HD void fit(int mode, const CodeRange &range, PerLane<float> &low, PerLane<float> &high, Fits &fits) const {
        PerLane<float> largest;
        if (mode == kSymmetricFull) find_first_largest(low, high, largest);
        PerLane<float> divisor, inverse, scale, zero;
        warp([&](int lane) {
            const float least = low[lane], most = high[lane];
            GroupFit &own = fits.own[lane];
            if (mode == kAsymmetric) {
                own = fit_asymmetric(least, most, range);
            } else {
                own = fit_symmetric(mode == kSymmetricFull ? -largest[lane] : fmaxf(fabsf(least), fabsf(most)), range);
            }
            divisor[lane] = own.divisor, inverse[lane] = own.inverse, scale[lane] = own.scale, zero[lane] = own.zero;
        });
        fits.divisor = of_quad(divisor);
        fits.inverse = of_quad(inverse);
        if (kChooses && parts.mode == kHybrid) fits.scale = of_quad(scale);
        if (mode == kAsymmetric) fits.zero = of_quad(zero);
    }

    // The number of largest magnitude; of two with different signs the first.
    INNERQ_HD void find_first_largest(PerLane<float> &low, PerLane<float> &high, PerLane<float> &largest) const {
        PerLane<bool> tie;
        warp([&](int lane) {
            largest[lane] = high[lane] > -low[lane] ? high[lane] : low[lane];
            tie[lane] = high[lane] == -low[lane];
        });
        if (!INNERQ_RARELY(any_lane(tie))) return;
        const PerLane<float> first = find_first(of_quad(high));
        PerLane<float> found = first;
        warp([&](int lane) {
            if (tie[lane]) largest[lane] = copysignf(high[lane], found[lane]);
        });
    }

    // For the lane's group: 1 + index of the first number of magnitude `largest`, with that number's sign.
    INNERQ_HD PerLane<float> find_first(PerLane<Numbers<4>> largest) const {
        PerLane<Numbers<4>> first;
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int sub = 0; sub < kGroups; ++sub) {
                float best = 99.0f;
                INNERQ_UNROLL
                for (int k = kOfGroup - 1; k >= 0; --k) {
                    const float x = tiles[lane].x[sub][k];
                    if (fabsf(x) == largest[lane].of[sub])
                        best = copysignf(static_cast<float>(1 + index_of(lane, k)), x);
                }
                first[lane].of[sub] = best;
            }
        });
        return join_over_quad(warp, first, [](float a, float b) { return fabsf(a) < fabsf(b) ? a : b; });
    }

    // Index in its group of a lane's number k.
    INNERQ_HD static int index_of(int lane, int k) {
        return Part == kKeys ? key_slot_channel(lane, k / 2, k % 2) : value_slot_token(lane, k / 2, k % 2);
    }

    INNERQ_HD void quantise(Fits &fits, bool asymmetric, const CodeRange &range, PerLane<Raised> &raised) const {
        if (asymmetric) {
            quantise_by(raised, [&](int lane, int sub, float x) {
                return raised_code(ieee::subtract(x, fits.zero[lane].of[sub]), fits.divisor[lane].of[sub],
                                   fits.inverse[lane].of[sub], range);
            });
        } else if (Part == kKeys && divided) {
            quantise_by(raised, [&](int lane, int sub, float x) {
                return raised_code(x, fits.divisor[lane].of[sub], fits.inverse[lane].of[sub], range);
            });
        } else {
            quantise_by(raised, [&](int lane, int sub, float x) {
                return raised_code_of_short(x, fits.divisor[lane].of[sub], fits.inverse[lane].of[sub], range);
            });
        }
    }

    template <class Quantise>
    INNERQ_HD void quantise_by(PerLane<Raised> &raised, const Quantise &quantise) const {
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int i = 0; i < kGroups * kOfGroup; ++i)
                raised[lane].code[i / kOfGroup][i % kOfGroup] =
                    quantise(lane, i / kOfGroup, tiles[lane].x[i / kOfGroup][i % kOfGroup]);
        });
    }

    // Errors are of codes within their range.
    INNERQ_HD void clamp(const CodeRange &range, PerLane<Raised> &raised) const {
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int i = 0; i < kGroups * kOfGroup; ++i) {
                float &code = raised[lane].code[i / kOfGroup][i % kOfGroup];
                code = clamped(code, range);
            }
        });
    }

    INNERQ_HD void store(int lane, float scale, float zero, bool asymmetric) const {
        store_scale(parts, Part, tile, slot_group(Part, lane, lane % 4), scale_of(scale, zero, asymmetric, parts.mode));
    }

    INNERQ_HD void store_raised(int lane, const Raised &raised) const {
        const int lowest = parts.mode == kSymmetric ? 1 : 0;
        CodePairs pairs;
        INNERQ_UNROLL
        for (int i = 0; i < kGroups * kOfGroup; i += 2) {
            const float *code = raised.code[i / kOfGroup] + i % kOfGroup;
            const uint32_t pair = low_halves(float_bits(code[0]), float_bits(code[1]));
            pairs.of[i / kOfGroup][i % kOfGroup / 2] = clamp_halves(pair, lowest, (1 << parts.bits) - 1);
        }
        store_codes(parts, tile, lane, pairs);
    }

    // Both ways side by side; the smaller sum of errors wins, symmetric on a tie.
    INNERQ_HD void run_hybrid(PerLane<float> &low, PerLane<float> &high) const {
        const CodeRange range = range_of(kSymmetric, parts.bits), other_range = range_of(kAsymmetric, parts.bits);
        Fits fits, other_fits;
        fit(kSymmetric, range, low, high, fits);
        fit(kAsymmetric, other_range, low, high, other_fits);
        PerLane<Raised> raised, other;
        quantise(fits, false, range, raised);
        quantise(other_fits, true, other_range, other);
        clamp(range, raised);
        clamp(other_range, other);
        PerLane<Numbers<4>> sum = error_sums(fits, false, range, raised);
        PerLane<Numbers<4>> other_sum = error_sums(other_fits, true, other_range, other);
        warp([&](int lane) {
            const GroupFit &own = fits.own[lane], &other_own = other_fits.own[lane];
            bool better = false;
            INNERQ_UNROLL
            for (int sub = 0; sub < kGroups; ++sub) {
                const bool wins = other_sum[lane].of[sub] < sum[lane].of[sub];
                INNERQ_UNROLL
                for (int k = 0; k < kOfGroup; ++k)
                    raised[lane].code[sub][k] = wins ? other[lane].code[sub][k] : raised[lane].code[sub][k];
                better = lane % 4 == sub ? wins : better;
            }
            store(lane, better ? other_own.scale : own.scale, better ? other_own.zero : own.zero, better);
            store_raised(lane, raised[lane]);
        });
    }

    // Sums of the groups' errors in the order of SPEC section 4: numbers 16 apart first, then 8, 4, 2, 1.
    INNERQ_HD PerLane<Numbers<4>> error_sums(Fits &fits, bool asymmetric, const CodeRange &range,
                                             PerLane<Raised> &raised) const {
        PerLane<Numbers<4>> sums;
        INNERQ_UNROLL
        for (int sub = 0; sub < kGroups; ++sub) {
            PerLane<Numbers<kOfGroup>> error;
            warp([&](int lane) {
                INNERQ_UNROLL
                for (int k = 0; k < kOfGroup; ++k)
                    error[lane].of[k] =
                        error_of(tiles[lane].x[sub][k], raised[lane].code[sub][k], fits.scale[lane].of[sub],
                                 asymmetric ? fits.zero[lane].of[sub] : 0.0f, range);
            });
            if (Part == kKeys) {  // channels 16 and 8 apart are two lanes and one lane apart
                add_over<kOfGroup>(error, 2);
                add_over<kOfGroup>(error, 1);
                add_within<4>(error), add_within<2>(error), add_within<1>(error);
            } else {  // tokens 16 and 8 apart are the lane's own, 4 and 2 are two lanes and one lane apart
                add_within<4>(error), add_within<2>(error);
                add_over<2>(error, 2);
                add_over<2>(error, 1);
                add_within<1>(error);
            }
            warp([&](int lane) { sums[lane].of[sub] = error[lane].of[0]; });
        }
        return sums;
    }

    // x[i] += x[i + n] of the lane.
    template <int n>
    INNERQ_HD void add_within(PerLane<Numbers<kOfGroup>> &x) const {
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int i = 0; i < n; ++i) x[lane].of[i] = ieee::add(x[lane].of[i], x[lane].of[i + n]);
        });
    }

    // x[i] += x[i] of lane ^ mask, the first n.
    template <int n>
    INNERQ_HD void add_over(PerLane<Numbers<kOfGroup>> &x, int mask) const {
        PerLane<Numbers<n>> there;
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int i = 0; i < n; ++i) there[lane].of[i] = x[lane].of[i];
        });
        exchange(there, mask);
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int i = 0; i < n; ++i) x[lane].of[i] = ieee::add(x[lane].of[i], there[lane].of[i]);
        });
    }
};

}  // namespace innerq
