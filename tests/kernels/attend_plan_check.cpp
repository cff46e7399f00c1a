// Properties of the flat split of decode attention (attend_plan.cuh); prints the first that fails and returns 1.
#include <cstdio>
#include <vector>

#include "innerq/attend_plan.cuh"

using namespace innerq::attend;

// Unit after unit, a sequence hands out each chunk and block once, one at a time.
static bool check_sequence(const Sequence &s) {
    int chunks = 0, blocks = 0;
    if (s.chunks_before(0) != 0 || s.blocks_before(0) != 0) return false;
    for (int x = 1; x <= s.units; ++x) {
        const int more_chunks = s.chunks_before(x) - chunks, more_blocks = s.blocks_before(x) - blocks;
        if (more_chunks < 0 || more_blocks < 0 || more_chunks + more_blocks > 1) return false;
        chunks += more_chunks, blocks += more_blocks;
    }
    return chunks == s.chunks && blocks == s.blocks;
}

// Cuts lie between whole steps, in rising order, and miss no block.
template <int kStep>
static bool check_steps(const Sequence &s) {
    int before = 0;
    for (int x = 0; x < s.units; ++x) {
        const int cut = s.steps_before<kStep>(x);
        if (cut < before || cut % kStep != 0 || cut > s.blocks_before(x)) return false;
        before = cut;
    }
    return s.steps_before<kStep>(s.units) == s.blocks;
}

// What is seen: every older token once, in window or blocks, unless the cache had no room for it.
static bool check_tokens(const Sequence &s, int past, int fresh, const CacheShape &cache) {
    if (fresh == 0) return s.chunks == 0 && s.blocks == 0;
    const int held = past + fresh, recent = cache.ring - 32;
    const int due = held < cache.sink + recent ? 0 : (held - cache.sink - recent) / 32;
    if (due > cache.capacity_blocks) return true;
    const int in_blocks = s.blocks == 0 ? 0 : 32 * (s.blocks - 1) + s.last_tokens();
    return s.sinks + s.tail + in_blocks == past && s.blocks <= due && s.tail <= cache.ring;
}

// Parts follow each other, miss nothing, know their units, are alike, or have a part's least number of units up to the last
// that has any.
static bool check_cuts(int total, int parts) {
    const Cuts cuts(total, Divisor(parts));
    if (cuts.cut(0) != 0 || cuts.cut(parts) != total) return false;
    for (int p = 0; p < parts; ++p) {
        const int begin = cuts.cut(p), end = cuts.cut(p + 1), units = end - begin;
        if (units < 0 || (units == 0 && end != total)) return false;
        if (units > 0 && (cuts.part_of(begin) != p || cuts.part_of(end - 1) != p)) return false;
        const int even = total / parts;
        if (even >= kLeastUnits ? units < even || units > even + 1 : units > kLeastUnits) return false;
        if (even < kLeastUnits && end < total && units != kLeastUnits) return false;
    }
    return true;
}

// Whatever a reciprocal of that precision errs.
static bool check_quotient(int x, int y) {
    for (float error : {-1.f, 0.f, 1.f}) {
        const float inverse = 1.f / static_cast<float>(y) * (1.f + error / (1 << 22));
        if (x / y <= kMostLines && small_quotient(x, y, inverse) != x / y) return false;
    }
    return true;
}

// A team takes each step once, in rising order, and costs differ by one step at most once there are steps for all.
template <int kBlocks>
static bool check_team(int size, int chunks, int steps) {
    std::vector<int> taken(steps);
    int least = 1 << 30, most = 0;
    for (int member = 0; member < size; ++member) {
        Team team;
        team.size = size, team.member = member;
        const Team::Steps own = team.steps<kBlocks>(chunks);
        int cost = 0, last = -1;
        for (int chunk = member; chunk < chunks; chunk += size) cost += kWindowUnits / kBlocks;
        for (int i = 0; own.step(i) < steps; ++i, ++cost) {
            if (own.step(i) <= last) return false;
            last = own.step(i);
            ++taken[last];
        }
        least = cost < least ? cost : least, most = cost > most ? cost : most;
    }
    for (int count : taken)
        if (count != 1) return false;
    return steps < 64 || most - least <= 1;
}

static bool check_divisor(unsigned d) {
    const Divisor by(d);
    const unsigned numbers[] = {0, 1, 5, d - 1, d, d + 1, 123456789u, 2147483646u, 2147483647u};
    for (unsigned x : numbers)
        if (x <= 2147483647u && by.divide(static_cast<int>(x)) != static_cast<int>(x / d)) return false;
    return true;
}

static int fail(const char *what, int a, int b, int c) {
    std::printf("%s: %d %d %d\n", what, a, b, c);
    return 1;
}

int main() {
    for (int past = 0; past < 2000; ++past)
        for (int fresh : {0, 1, 3, 16})
            for (int room : {0, 20, 1000}) {
                const CacheShape cache{past % 40, 32 + past % 97, room};
                const Sequence s(past, fresh, 16, cache);
                if (!check_sequence(s)) return fail("units of past, fresh, room", past, fresh, room);
                if (!check_steps<1>(s) || !check_steps<2>(s))
                    return fail("steps of past, fresh, room", past, fresh, room);
                if (!check_tokens(s, past, fresh, cache)) return fail("tokens of past, fresh, room", past, fresh, room);
            }
    for (int total : {1, 5, 8, 9, 55, 56, 57, 1000, 1055, 1056, 1057, 65536, 2000000000})
        for (int parts : {1, 7, 132, 256})
            if (!check_cuts(total, parts)) return fail("cuts", total, parts, 0);
    for (int y : {1, 2, 5, 7, 144, 4103, 65537, 16777217, 2147483647})
        for (int quotient : {0, 1, 2, 7, 255, 1000, kMostLines - 1, kMostLines})
            for (int rest : {-1, 0, 1, y / 2}) {
                const long long x = static_cast<long long>(quotient) * y + rest;
                if (x < 0 || x > 2147483647) continue;
                if (!check_quotient(static_cast<int>(x), y)) return fail("quotient", static_cast<int>(x), y, 0);
            }
    for (int size = 1; size <= 8; ++size)
        for (int chunks = 0; chunks < 30; ++chunks)
            for (int steps = 0; steps < 200; steps += 7)
                if (!check_team<1>(size, chunks, steps) || !check_team<2>(size, chunks, steps))
                    return fail("team of size, chunks, steps", size, chunks, steps);
    for (unsigned d = 1; d < 3000; ++d)
        if (!check_divisor(d)) return fail("division by", static_cast<int>(d), 0, 0);
    for (unsigned d : {1000003u, 1073741824u, 2147483647u})
        if (!check_divisor(d)) return fail("division by", static_cast<int>(d), 0, 0);
    return 0;
}
