// What the layers of encoders and decoder share: parameters by name, norms, and products between them.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>

#include "product.h"
#include "team.h"
#include "vectors.h"

namespace moonshine {

constexpr float EPSILON = 1e-5f;  // of the norms
constexpr int MOST_DIM = 1024;
constexpr int LONGEST_VECTOR = 16;  // numbers, on any processor

// A vector or a matrix as it comes, not yet packed.
struct Table {
    Array<float> numbers;
    size_t count;
};

// A model's weights and tables by name.
class Parameters {
  public:
    void set_weights(const std::string& name, Weights weights) { weights_[name] = std::move(weights); }
    void set_table(const std::string& name, const float* numbers, size_t count) {
        Table table{zeros<float>(count), count};
        std::copy_n(numbers, count, table.numbers.get());
        tables_[name] = std::move(table);
    }

    // Biases go to their products.
    void complete() {
        for (auto& [name, weights] : weights_)
            if (const auto bias = tables_.find(name + ".bias"); bias != tables_.end()) weights.set_bias(bias->second.numbers.get());
    }

    bool has(const std::string& name) const { return weights_.count(name) > 0; }

    // Throw std::invalid_argument for what is missing.
    const Weights& weights(const std::string& name) const { return found(weights_, name); }
    const float* table(const std::string& name) const { return found(tables_, name).numbers.get(); }
    size_t count(const std::string& name) const { return found(tables_, name).count; }

  private:
    template <class Value>
    static const Value& found(const std::map<std::string, Value>& values, const std::string& name) {
        const auto value = values.find(name);
        if (value == values.end()) throw std::invalid_argument("the weights lack " + name);
        return value->second;
    }

    std::map<std::string, Weights> weights_;
    std::map<std::string, Table> tables_;
};

// Numbers of a row: those that count, and with those that fill it up to whole vectors, which are zero.
struct Width {
    int count, whole;

    explicit Width(int count) : count(count), whole(rounded_up(count, LONGEST_VECTOR)) {}
};

inline void check_width(const char* name, int width) {
    if (width % LONGEST_VECTOR || width > MOST_DIM)
        throw std::invalid_argument(std::string(name) + " must be whole vectors of " + std::to_string(LONGEST_VECTOR) + ", at most 1,024");
}

// The first `count` numbers of a vector, zeros for the others.
inline Floats first_of(Floats values, int count) {
    if (count >= LANES) return values;
    float all[LANES];
    store(all, values);
    std::fill(all + std::max(count, 0), all + LANES, 0.0f);
    return load(all);
}

// Layer normalisation without a bias. Of numbers that fill up the row the weights are zero.
inline void normalise(const float* row, const float* weight, Width width, float* out) {
    Floats total = spread(0.0f);
    for (int d = 0; d < width.whole; d += LANES) total = total + load(row + d);
    const Floats mean = spread(sum_of(total) / width.count);
    Floats squares = spread(0.0f);
    for (int d = 0; d < width.whole; d += LANES) {
        const Floats centred = first_of(load(row + d) - mean, width.count - d);
        squares = multiply_add(centred, centred, squares);
    }
    const Floats inverse = spread(1.0f / std::sqrt(sum_of(squares) / width.count + EPSILON));
    for (int d = 0; d < width.whole; d += LANES) store(out + d, (load(row + d) - mean) * inverse * load(weight + d));
}

inline void prepare_normalised(Team& team, const float* norm, const float* x, Width width, int rows, Prepared& prepared) {
    team.each(rows, [&](int row) {
        float normalised[MOST_DIM];
        normalise(x + size_t(row) * width.whole, norm, width, normalised);
        prepared.put(row, normalised);
    });
}

// out = weights * (norm of x); returns rows x columns.
inline Array<float> project(Team& team, const float* norm, const Weights& weights, const float* x, Width width, int rows) {
    Prepared prepared(weights, rows);
    prepare_normalised(team, norm, x, width, rows, prepared);
    Array<float> out = room<float>(size_t(rows) * weights.columns);
    multiply(team, weights, prepared.rows(), rows, [&](int row, int column, Floats values) {
        store(&out[size_t(row) * weights.columns + column], values);
    });
    return out;
}

// x += weights * from, whose rows lie `stride` apart
inline void add_product(Team& team, const Weights& weights, const float* from, int stride, int rows, float* x) {
    Prepared prepared(weights, rows);
    team.each(rows, [&](int row) { prepared.put(row, from + size_t(row) * stride); });
    multiply(team, weights, prepared.rows(), rows, [&](int row, int column, Floats values) {
        float* to = x + size_t(row) * weights.columns + column;
        store(to, load(to) + values);
    });
}

// x += fc2 * gelu(fc1 * (norm of x))
inline void feed_forward(Team& team, const float* norm, const Weights& fc1, const Weights& fc2, float* x, Width width, int rows) {
    Prepared prepared(fc1, rows);
    prepare_normalised(team, norm, x, width, rows, prepared);
    Array<float> inner = room<float>(size_t(rows) * fc1.columns);
    multiply(team, fc1, prepared.rows(), rows, [&](int row, int column, Floats values) {
        store(&inner[size_t(row) * fc1.columns + column], gelu(values));
    });
    add_product(team, fc2, inner.get(), fc1.columns, rows, x);
}

}  // namespace moonshine
