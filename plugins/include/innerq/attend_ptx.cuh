// The few machine instructions that decode attention is made of, each as one function. sm_75 and later; what an older
// architecture lacks is emulated here, so that the code above is the same for all.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace innerq::attend {

// 1-D bulk copies.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define INNERQ_BULK_COPY 1
#else
#define INNERQ_BULK_COPY 0
#endif

// d[16 x 8] = a[16 x 16] b[16 x 8] + c, fp16 operands, fp32 accumulators, fragments as PTX names them.
__device__ __forceinline__ void mma(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1, const float (&c)[4]) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a2), "r"(a3), "r"(b1));
#endif
}

// 8x8 transpose of 16-bit elements across the warp: lane 4 row + q holds (row, 2 q) and (row, 2 q + 1).
__device__ __forceinline__ uint32_t transpose8x8(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// (low, high) rounded to fp16 and packed; above 65,504 becomes infinity.
__device__ __forceinline__ uint32_t pack_half2(float low, float high) {
    const half2 y = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&y);
}

// The same, rounded towards 0.
__device__ __forceinline__ uint32_t truncate_half2(float low, float high) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    uint32_t y;
    asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
#else
    const half2 y = __halves2half2(__float2half_rz(low), __float2half_rz(high));
    return *reinterpret_cast<const uint32_t *>(&y);
#endif
}

__device__ __forceinline__ half2 as_half2(uint32_t x) { return *reinterpret_cast<half2 *>(&x); }
__device__ __forceinline__ uint32_t as_u32(half2 x) { return *reinterpret_cast<uint32_t *>(&x); }
__device__ __forceinline__ float2 unpack_half2(uint32_t x) { return __half22float2(as_half2(x)); }

__device__ __forceinline__ float2 unpack_bf162(uint32_t x) {
    return {__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)};
}

// Two activations of either dtype as fp16.
__device__ __forceinline__ uint32_t to_half2(uint32_t x, bool bf16) {
    if (!bf16) return x;
    const float2 v = unpack_bf162(x);
    return pack_half2(v.x, v.y);
}
__device__ __forceinline__ uint4 to_half8(uint4 x, bool bf16) {
    if (!bf16) return x;
    return {to_half2(x.x, true), to_half2(x.y, true), to_half2(x.z, true), to_half2(x.w, true)};
}

// Two fp32 numbers as two activations.
__device__ __forceinline__ uint32_t pack_activation2(float low, float high, bool bf16) {
    if (!bf16) return pack_half2(low, high);
    const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&v);
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Two words of shared memory, 8-byte aligned.
__device__ __forceinline__ void load_shared_pair(uint32_t from, uint32_t &x, uint32_t &y) {
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x), "=r"(y) : "r"(from));
}

// Counts up, and orders this thread's memory accesses, and those it has synchronised with, for the whole GPU. Returns
// the count before.
__device__ __forceinline__ unsigned count_in(unsigned *counter) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

// Asks for a line of 128 bytes in the L2 cache, and for the address's translation on the way.
__device__ __forceinline__ void prefetch_line(const void *from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

#if INNERQ_BULK_COPY
__device__ __forceinline__ void barrier_init(uint32_t barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier) : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// By one lane of a whole warp, without a branch.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile(
        "{\n"
        ".reg .pred elected;\n"
        "elect.sync _|elected, 0xffffffff;\n"
        "@elected mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n"
        "}\n" ::"r"(barrier),
        "r"(bytes)
        : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ uint64_t evict_first_policy() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ uint64_t evict_unchanged_policy() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_unchanged.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Asks for a copy in the L2 cache.
__device__ __forceinline__ void bulk_prefetch(const void *from, uint32_t bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

// By one lane of a whole warp, without a branch.
__device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier,
                                          uint64_t policy) {
    asm volatile(
        "{\n"
        ".reg .pred elected;\n"
        "elect.sync _|elected, 0xffffffff;\n"
        "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1], %2, [%3], %4;\n"
        "}\n" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
}

// Both at once: what the barrier is to expect, and the copy.
__device__ __forceinline__ void bulk_fill(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier,
                                          uint64_t policy) {
    asm volatile(
        "{\n"
        ".reg .pred elected;\n"
        "elect.sync _|elected, 0xffffffff;\n"
        "@elected mbarrier.arrive.expect_tx.shared::cta.b64 _, [%3], %2;\n"
        "@elected cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1], %2, [%3], %4;\n"
        "}\n" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
        : "memory");
}
#endif

// Copies 16 bytes into shared memory; asynchronous from sm_80 on, complete after copy_wait.
__device__ __forceinline__ void copy16(void *to, const void *from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
#else
    *static_cast<uint4 *>(to) = *static_cast<const uint4 *>(from);
#endif
}

__device__ __forceinline__ void copy_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All but the newest `kPending` committed groups are complete.
template <int kPending>
__device__ __forceinline__ void copy_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace innerq::attend
