// The library's functions, as runtime/engine/native_library.py calls them. Each returns 0, or -1 after putting a sentence in `error`.
#include <cstdio>
#include <exception>

#include "model.h"

using namespace moonshine;

#ifdef MOONSHINE_HALF
typedef Half Kept;
#else
typedef float Kept;
#endif

constexpr int ERROR_BYTES = 256;

template <class Function>
static int guarded(char* error, const Function& function) {
    try {
        function();
        return 0;
    } catch (const std::exception& failure) {
        std::snprintf(error, ERROR_BYTES, "%s", failure.what());
        return -1;
    }
}

extern "C" {

Model<Kept>* moonshine_open(const int* shape) {
    return new Model<Kept>(Shape{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6], shape[7], shape[8], shape[9]});
}

void moonshine_close(Model<Kept>* model) {
    delete model;
    Store::shared().clear();
}

// Null where there cannot be so many threads.
Team* moonshine_team(int threads) {
    try {
        return new Team(threads);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void moonshine_dismiss(Team* team) { delete team; }

int moonshine_kept_bytes() { return sizeof(Kept); }

int moonshine_block() { return BLOCK; }

int moonshine_floats(Model<Kept>* model, const char* name, const float* weight, int columns, int depth, char* error) {
    return guarded(error, [&] { model->set_weights(name, packed(weight, columns, depth)); });
}

int moonshine_bfloat16(Model<Kept>* model, const char* name, const Bfloat16* weight, int columns, int depth, char* error) {
    return guarded(error, [&] { model->set_weights(name, packed(weight, columns, depth)); });
}

int moonshine_int8(Model<Kept>* model, const char* name, const int8_t* weight, const float* scales, int columns, int depth,
                   char* error) {
    return guarded(error, [&] { model->set_weights(name, packed(weight, scales, columns, depth)); });
}

int moonshine_table(Model<Kept>* model, const char* name, const float* numbers, int64_t count, char* error) {
    return guarded(error, [&] { model->set_table(name, numbers, count); });
}

int moonshine_complete(Model<Kept>* model, char* error) {
    return guarded(error, [&] { model->complete(); });
}

int64_t moonshine_head_size(const Model<Kept>* model, int positions) { return model->head_size(positions); }

int moonshine_encode(const Model<Kept>* model, Team* team, const float* audio, int samples, Kept* cross, int positions, char* error) {
    return guarded(error, [&] { model->encode(*team, audio, samples, cross, positions); });
}

int moonshine_decode(const Model<Kept>* model, Team* team, int row_count, const int64_t* tokens, const int* counts, const int* pasts,
                     const int* frames, const float* end_biases, void** self, void** cross, int self_positions, int64_t* chosen,
                     float* log_probs, char* error) {
    return guarded(error, [&] {
        std::vector<Row> rows;
        for (int row = 0; row < row_count; tokens += counts[row], ++row)
            rows.push_back({tokens, counts[row], pasts[row], frames[row], end_biases[row], self[row], cross[row]});
        model->decode(*team, rows, self_positions, chosen, log_probs);
    });
}

int moonshine_align(const Model<Kept>* model, Team* team, const int64_t* tokens, int count, int frames, void* self, void* cross,
                    int self_positions, const int* heads, int head_count, float* shares, char* error) {
    return guarded(error, [&] {
        model->align(*team, Row{tokens, count, 0, frames, 0.0f, self, cross}, heads, head_count, self_positions, shares);
    });
}

}  // extern "C"
