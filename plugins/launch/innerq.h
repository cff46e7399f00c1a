/* innerq.h: the C ABI of the InnerQ kernels, contract v1. The only public header; plain C99.
 *
 * Rules that hold for every function below
 * - Nothing allocates, throws, exits or synchronises. Memory belongs to the caller and must outlive the launched work.
 * - A function returns INNERQ_OK or a status; `innerq_last_message` then says which argument, what was expected and
 * what was found. A call that fails its checks has launched nothing and changed nothing.
 * - `stream` is a cudaStream_t passed as void* (NULL: the default stream). Work is asynchronous in that stream, reads
 *   every length on the device and can be captured in a CUDA graph. In the host build (libinnerq_host) all pointers are
 *   host pointers, `stream` is ignored and the work is done when the call returns.
 * - Functions may be called from any thread. Calls that share a cache or a workspace must be ordered by the caller.
 * - Tensors are row-major; a name ends in its shape. B sequences, Hq query heads, Hkv key/value heads, S new tokens,
 *   D head dim, W = sink + recent + 32 window slots, NB blocks of 32 tokens a sequence has room for. Offsets are
 *   64-bit.
 * - Windows, records, lambdas, activations and workspaces are 16-byte aligned, logical codes 4-byte, all else as its type;
 *   what is not is refused. `activation` below is the dtype of window, queries, new tokens and outputs.
 *
 * The cache of one layer (SPEC section 2), tokens of sequence b counted from 0, n = tokens held:
 *   block j (tokens sink + 32 j ...) for j < q(n) = max(0, floor((n - sink - recent) / 32)) is one packed record;
 *   token t lives in window slot t if t < sink, else sink + (t - sink) mod (recent + 32).
 */
#ifndef INNERQ_H
#define INNERQ_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define INNERQ_API __attribute__((visibility("default")))
#else
#define INNERQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define INNERQ_SPEC_VERSION 1
#define INNERQ_GROUP 32
#define INNERQ_MAX_KV_HEADS 1024
#define INNERQ_MAX_GROUP_HEADS 16
#define INNERQ_MAX_ATTEND_TOKENS 16

typedef enum innerq_status {
    INNERQ_OK = 0,
    INNERQ_INVALID_ARGUMENT = 1,    /* a value, pointer, size or alignment that cannot hold */
    INNERQ_UNSUPPORTED = 2,         /* valid, but not in this build or on this card */
    INNERQ_WORKSPACE_TOO_SMALL = 3, /* give at least the bytes the matching *_workspace_bytes asks for */
    INNERQ_CAPACITY_EXCEEDED = 4,   /* these tokens cannot fit, whatever the lengths on the device are */
    INNERQ_CUDA_ERROR = 5           /* a launch failed; the message holds CUDA's own words */
} innerq_status;

/* Formulas: SPEC section 4; order of innerq_export.spec.MODES. */
typedef enum innerq_mode {
    INNERQ_SYMMETRIC = 0,
    INNERQ_SYMMETRIC_FULL = 1,
    INNERQ_ASYMMETRIC = 2,
    INNERQ_HYBRID = 3
} innerq_mode;

/* SPEC section 5; order of innerq_export.spec.KEY_NORMS. */
typedef enum innerq_key_norm {
    INNERQ_KEY_NORM_PREFILL = 0,
    INNERQ_KEY_NORM_FOLDED = 1,
    INNERQ_KEY_NORM_NONE = 2
} innerq_key_norm;

typedef enum innerq_activation { INNERQ_FP16 = 0, INNERQ_BF16 = 1 } innerq_activation;

/* Bits of the sticky word innerq_cache.flags; such a sequence's append is dropped and its cache left unharmed. Kernels
 * only ever set bits, the caller clears them. */
typedef enum innerq_flag {
    INNERQ_FLAG_CAPACITY = 1, /* no room for a due block, or no page */
    INNERQ_FLAG_LENGTH = 2    /* a negative length, or a new length above S */
} innerq_flag;

typedef struct innerq_config {
    uint32_t struct_bytes; /* sizeof(innerq_config) */
    int32_t spec_version;  /* INNERQ_SPEC_VERSION */
    int32_t head_dim;      /* 64, 128 or 256 */
    int32_t key_bits;      /* 2, 3, 4 or 8 */
    int32_t key_mode;      /* innerq_mode */
    int32_t value_bits;    /* 2, 3, 4 or 8 */
    int32_t value_mode;    /* innerq_mode */
    int32_t group_size;    /* INNERQ_GROUP */
    int32_t sink;          /* 0 .. 2^20 tokens */
    int32_t recent;        /* 0 .. 2^20 tokens */
    int32_t key_norm;      /* innerq_key_norm */
    int32_t activation;    /* innerq_activation */
} innerq_config;

/* The cache of one layer. A fresh cache needs no initial contents, but key_norm must hold 1.0 where no block was made
 * yet if anybody wants to read it. Records that were never written, and pages of no sequence, are never read. */
typedef struct innerq_cache {
    uint32_t struct_bytes;      /* sizeof(innerq_cache) */
    int32_t batch;              /* B >= 1 */
    int32_t kv_heads;           /* 1 .. INNERQ_MAX_KV_HEADS */
    int32_t capacity_blocks;    /* NB >= 0 */
    void *window_B2HkvWD;       /* activation dtype; [:, 0] keys after RoPE, [:, 1] values */
    void *blocks;               /* records: [B, Hkv, NB], or a pool [pages, Hkv, page_blocks] with block_table */
    void *key_norm_BHkvD;       /* fp16; read and, when the first blocks are made, written by append.
                                   NULL unless config.key_norm is INNERQ_KEY_NORM_PREFILL */
    const int32_t *block_table; /* NULL: contiguous. Else [B, ceil(NB / page_blocks)] page numbers on the device; block
                                   j of sequence b is record j mod page_blocks of page block_table[b, j / page_blocks];
                                   entries outside 0 .. pages - 1 count as "no page" */
    int32_t page_blocks;        /* records of a page and head, >= 1 with block_table */
    int32_t pages;              /* pages in the pool, >= 1 with block_table */
    int32_t *flags;             /* device, one int32, may be NULL: INNERQ_FLAG_* are set here */
} innerq_cache;

/* Activations [B, H, S, D]. Strides count elements and are multiples of 8; all three zero means contiguous. */
typedef struct innerq_tokens {
    void *data;
    int64_t stride_batch;
    int64_t stride_head;
    int64_t stride_token;
} innerq_tokens;

/* ---- Errors and facts ------------------------------------------------------------------------------------------ */

/* Name of a status, e.g. "INNERQ_INVALID_ARGUMENT". Never NULL. */
INNERQ_API const char *innerq_status_string(innerq_status status);

/* Message of the last failed call of this thread; "" before the first. Valid until this thread fails again. */
INNERQ_API const char *innerq_last_message(void);

typedef struct innerq_build {
    uint32_t struct_bytes;     /* in: sizeof(innerq_build) of the caller */
    int32_t spec_version;      /* INNERQ_SPEC_VERSION of the library */
    int32_t cuda_version;      /* of nvcc, 13000 for 13.0; 0 in the host build */
    const char *git_hash;      /* 12 digits, "+dirty" behind if the tree had changes, "unknown" outside git */
    const char *architectures; /* "90;120" as given to nvcc; "host" in the host build */
} innerq_build;

INNERQ_API innerq_status innerq_build_info(innerq_build *build);

/* ---- Sizes ----------------------------------------------------------------------------------------------------- */

/* INNERQ_OK, or the first field of `config` that cannot hold. Every other function checks this too. */
INNERQ_API innerq_status innerq_validate(const innerq_config *config);

/* Bytes of one record: 32 tokens, keys and values, one KV head. `base` at D = 128: 3,584. */
INNERQ_API innerq_status innerq_record_bytes(const innerq_config *config, size_t *bytes);

/* Bytes of window_B2HkvWD. */
INNERQ_API innerq_status innerq_window_bytes(const innerq_config *config, int32_t batch, int32_t kv_heads,
                                             size_t *bytes);

/* Bytes of the contiguous blocks array [B, Hkv, NB, record]. */
INNERQ_API innerq_status innerq_blocks_bytes(const innerq_config *config, int32_t batch, int32_t kv_heads,
                                             int32_t capacity_blocks, size_t *bytes);

/* Blocks a sequence of `tokens` tokens has: q(tokens). */
INNERQ_API innerq_status innerq_blocks_of(const innerq_config *config, int64_t tokens, int64_t *blocks);

/* ---- Append (SPEC section 7) ----------------------------------------------------------------------------------- */

typedef struct innerq_append_args {
    uint32_t struct_bytes;        /* sizeof(innerq_append_args) */
    int32_t tokens;               /* S >= 1: 1 in decoding, the prompt in prefill, anything in chunked prefill */
    innerq_tokens key_BHkvSD;     /* after RoPE; only read */
    innerq_tokens value_BHkvSD;   /* only read */
    const int32_t *past_length_B; /* device: tokens held before the call. The caller advances it, not append */
    const int32_t *new_length_B;  /* device: 0 .. S new tokens of each sequence; NULL: S for all. Tokens behind are
                                     never looked at */
} innerq_append_args;

/* Workspace of an append of `tokens` tokens; 0 bytes for tokens <= 32. Contents before and after do not matter. */
INNERQ_API innerq_status innerq_append_workspace_bytes(const innerq_config *config, const innerq_cache *cache,
                                                       int32_t tokens, size_t *bytes);

/* Writes the new tokens into the window and moves every block that is due from window or new tokens into `blocks`. When
 * a sequence's first blocks are made and key_norm is `prefill`, lambda is computed from the keys of exactly these
 * blocks. tokens <= 32 is one launch. A sequence that does not fit (q(past + new) > NB, or a page is missing) is left
 * exactly as it was and INNERQ_FLAG_CAPACITY is set. Non-finite keys or values give unspecified codes, nothing worse.
 */
INNERQ_API innerq_status innerq_append(const innerq_config *config, const innerq_cache *cache,
                                       const innerq_append_args *args, void *workspace, size_t workspace_bytes,
                                       void *stream);

/* ---- Attend (SPEC section 7) ----------------------------------------------------------------------------------- */

typedef struct innerq_attend_args {
    uint32_t struct_bytes; /* sizeof(innerq_attend_args) */
    int32_t query_heads;   /* Hq: 1 .. INNERQ_MAX_GROUP_HEADS times Hkv; query head h reads KV head h / (Hq / Hkv) */
    int32_t tokens;        /* S: 1 .. INNERQ_MAX_ATTEND_TOKENS for innerq_attend, any S >= 1 for innerq_prefill */
    innerq_tokens query_BHqSD;    /* only read */
    innerq_tokens key_BHkvSD;     /* the new tokens, in full precision, as given to append; only read */
    innerq_tokens value_BHkvSD;   /* only read */
    innerq_tokens out_BHqSD;      /* written for every row; rows behind new_length are zero */
    const int32_t *past_length_B; /* device: tokens held before the append of these new tokens */
    const int32_t *new_length_B;  /* device: 0 .. S; NULL: S for all */
    float scale;                  /* of the scores; 0: 1/sqrt(D) */
    int32_t workspace_is_clean; /* innerq_attend only. 1: the workspace was zeroed once after allocation and nothing but
                                   innerq_attend has written it since (saves a memset); 0: contents do not matter */
    int32_t max_past;           /* innerq_prefill only: host-known upper bound of past_length_B, 0 for empty caches */
} innerq_attend_args;

INNERQ_API innerq_status innerq_attend_workspace_bytes(const innerq_config *config, const innerq_cache *cache,
                                                       int32_t query_heads, int32_t tokens, size_t *bytes);

/* O = attention of the new tokens over a cache into which they have been appended already: token past + i sees every
 * token up to itself; tokens >= past from key/value_BHkvSD, older ones as the cache holds them. Softmax in fp32. */
INNERQ_API innerq_status innerq_attend(const innerq_config *config, const innerq_cache *cache,
                                       const innerq_attend_args *args, void *workspace, size_t workspace_bytes,
                                       void *stream);

/* Workspace of innerq_prefill: room for max_past tokens of keys and values in activation dtype; 0 for max_past 0. */
INNERQ_API innerq_status innerq_prefill_workspace_bytes(const innerq_config *config, const innerq_cache *cache,
                                                        int32_t max_past, size_t *bytes);

/* The same result as innerq_attend for any S: dequantises the older tokens once into workspace, then attends. Tokens of
 * the cache at or beyond max_past are not seen. */
INNERQ_API innerq_status innerq_prefill(const innerq_config *config, const innerq_cache *cache,
                                        const innerq_attend_args *args, void *workspace, size_t workspace_bytes,
                                        void *stream);

/* ---- Reading and converting a cache ---------------------------------------------------------------------------- */

typedef struct innerq_dequantise_args {
    uint32_t struct_bytes;   /* sizeof(innerq_dequantise_args) */
    int32_t tokens;          /* T >= 1: tokens 0 .. T-1 of every sequence are written */
    void *key_BHkvTD;        /* activation dtype, contiguous; quantised keys are code * scale [+ zero] times lambda in
                                fp32, rounded once; window tokens are copied */
    void *value_BHkvTD;      /* likewise */
    const int32_t *length_B; /* device: tokens held (n). Tokens >= n are written as zeros */
} innerq_dequantise_args;

/* Cache -> plain keys and values in token order. */
INNERQ_API innerq_status innerq_dequantise(const innerq_config *config, const innerq_cache *cache,
                                           const innerq_dequantise_args *args, void *stream);

/* The `logical` layout of the same blocks (SPEC section 7). In every mode the int8 code is the stored (offset) code of
 * the record minus 2^(b-1): the signed code of the symmetric modes, code - 2^(b-1) of the asymmetric ones, so that 8
 * bits fit; the torch reference and the ONNX functions do the same. `hybrid`: sign bit of the scale set = asymmetric; the
 * zero of any other group is 0. Zeros may be NULL where the mode has none. */
typedef struct innerq_logical {
    uint32_t struct_bytes; /* sizeof(innerq_logical) */
    int8_t *key_codes_BHkvNB32D;
    void *key_scales_BHkvNB32Dg; /* fp16, Dg = D / 32 */
    void *key_zeros_BHkvNB32Dg;  /* fp16 */
    int8_t *value_codes_BHkvNB32D;
    void *value_scales_BHkvNBD; /* fp16 */
    void *value_zeros_BHkvNBD;  /* fp16 */
    const int32_t *length_B;    /* device: convert blocks j < q(length) only; NULL: all NB */
} innerq_logical;

/* Exact both ways. Blocks that are not converted keep what they held. */
INNERQ_API innerq_status innerq_to_logical(const innerq_config *config, const innerq_cache *cache,
                                           const innerq_logical *logical, void *stream);
INNERQ_API innerq_status innerq_from_logical(const innerq_config *config, const innerq_cache *cache,
                                             const innerq_logical *logical, void *stream);

#ifdef __cplusplus
}
#endif

#endif /* INNERQ_H */
