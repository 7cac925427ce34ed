// runtime/engine/kernels.cu on the host: one thread after the other, so that its indices can be held against numpy.
struct Index { int x, y, z; };
static Index blockIdx, threadIdx, blockDim, gridDim;
#define __global__ static
#define CELL unsigned short
#include "../runtime/engine/kernels.cu"

template <typename Kernel, typename... Arguments>
static void launch(int x, int y, int z, int threads, Kernel kernel, Arguments... arguments)
{
    gridDim = {x, y, z};
    blockDim = {threads, 1, 1};
    for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++)
                for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)
                    kernel(arguments...);
}

extern "C" {

void run_hear(int x, int y, int z, int threads, const short *pcm, const long long *lengths, const long long *positions,
              const float *dither, float *audio, int period, int samples)
{
    launch(x, y, z, threads, hear, pcm, lengths, positions, dither, audio, period, samples);
}

void run_keep_cross(int x, int y, int z, int threads, const CELL *cross_kv, const long long *slots, const long long *frames,
                    CELL *cache, long long *slot_frames, int batch, int heads, int shape_frames, int head_dim, int slot_count,
                    int cache_frames)
{
    launch(x, y, z, threads, keep_cross, cross_kv, slots, frames, cache, slot_frames, batch, heads, shape_frames, head_dim,
           slot_count, cache_frames);
}

void run_continue_rows(int x, int y, int z, int threads, long long *tokens, const long long *last_tokens, int batch, int new_tokens)
{
    launch(x, y, z, threads, continue_rows, tokens, last_tokens, batch, new_tokens);
}

void run_keep_past(int x, int y, int z, int threads, const CELL *new_kv, const long long *past_lengths, const long long *counts,
                   const long long *next_tokens, CELL *cache, long long *last_tokens, int batch, int heads, int new_tokens,
                   int head_dim, int slot_count, int cache_positions)
{
    launch(x, y, z, threads, keep_past, new_kv, past_lengths, counts, next_tokens, cache, last_tokens, batch, heads, new_tokens,
           head_dim, slot_count, cache_positions);
}

}
