// What lies between the host's blocks and TensorRT's networks: audio to floats, keys and values into their slots, tokens from
// one step into the next. CELL is the type of a cached key or value, by its size only: nothing is computed with it. Arguments: addresses first, then sizes.

extern "C" {

// PCM16 to dithered floats, zero behind a row's length. Grid: (any, batch).
__global__ void hear(const short *pcm, const long long *lengths, const long long *positions, const float *dither, float *audio,
                     int period, int samples)
{
    int row = blockIdx.y;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < samples; i += gridDim.x * blockDim.x) {
        long long cell = (long long)row * samples + i;
        audio[cell] = i < lengths[row] ? dither[(positions[row] + i) % period] + pcm[cell] * (1.0f / 32768.0f) : 0.0f;
    }
}

// The encoder's keys and values (planes, batch, heads, frames, head_dim) into the slots of their rows (planes, slots, heads,
// cache_frames, head_dim); a row with slot -1 goes nowhere. A plane is one of keys or values of a layer.
// Grid: (any, heads, planes * batch).
__global__ void keep_cross(const CELL *cross_kv, const long long *slots, const long long *frames, CELL *cache,
                           long long *slot_frames, int batch, int heads, int shape_frames, int head_dim, int slot_count,
                           int cache_frames)
{
    int plane = blockIdx.z / batch, row = blockIdx.z % batch, head = blockIdx.y;
    long long slot = slots[row];
    if (slot < 0)
        return;
    const CELL *from = cross_kv + ((long long)blockIdx.z * heads + head) * shape_frames * head_dim;
    CELL *to = cache + (((long long)plane * slot_count + slot) * heads + head) * cache_frames * head_dim;
    int count = (int)frames[row] * head_dim;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        to[i] = from[i];
    if (plane == 0 && head == 0 && blockIdx.x == 0 && threadIdx.x == 0)
        slot_frames[slot] = frames[row];
}

// A row's first token that is negative is the one its last pass predicted. Grid: (any).
__global__ void continue_rows(long long *tokens, const long long *last_tokens, int batch, int new_tokens)
{
    for (int row = blockIdx.x * blockDim.x + threadIdx.x; row < batch; row += gridDim.x * blockDim.x)
        if (tokens[(long long)row * new_tokens] < 0)
            tokens[(long long)row * new_tokens] = last_tokens[row];
}

// The new keys and values (planes, batch, heads, new, head_dim) behind each row's past in its slot (planes, slots, heads,
// cache_positions, head_dim), as many as count; and the token predicted last. Grid: (any, heads, planes * batch).
__global__ void keep_past(const CELL *new_kv, const long long *past_lengths, const long long *counts, const long long *next_tokens,
                          CELL *cache, long long *last_tokens, int batch, int heads, int new_tokens, int head_dim,
                          int slot_count, int cache_positions)
{
    int plane = blockIdx.z / batch, row = blockIdx.z % batch, head = blockIdx.y;
    if (counts[row] == 0)
        return;
    const CELL *from = new_kv + ((long long)blockIdx.z * heads + head) * new_tokens * head_dim;
    CELL *to = cache + (((long long)plane * slot_count + row) * heads + head) * cache_positions * head_dim
               + past_lengths[row] * head_dim;
    int count = (int)counts[row] * head_dim;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        to[i] = from[i];
    if (plane == 0 && head == 0 && blockIdx.x == 0 && threadIdx.x == 0)
        last_tokens[row] = next_tokens[(long long)row * new_tokens + counts[row] - 1];
}

}
