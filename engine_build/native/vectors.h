// Vectors of floats, and the functions that Moonshine's activations need. One vector is what one instruction takes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace moonshine {

constexpr int LANES = 8;

typedef __m256 Floats;
typedef __m256i Bytes;
typedef uint16_t Half;  // IEEE half precision, as bits

inline Floats spread(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline Floats load(const Half* from) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
inline void store(float* to, Floats values) { _mm256_storeu_ps(to, values); }
inline void store(Half* to, Floats values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(float* to, float value) { *to = value; }
inline void store(Half* to, float value) { *to = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats absolute(Floats a) { return _mm256_andnot_ps(spread(-0.0f), a); }

inline float sum_of(Floats values) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

inline float largest_of(Floats values) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// Cephes' expf: relative error below 2e-7. What is below -87 gives a number next to zero, not zero.
inline Floats exponential(Floats x) {
    x = larger(smaller(x, spread(88.0f)), spread(-87.0f));
    const Floats power = _mm256_round_ps(x * spread(1.44269504f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    x = multiply_add(power, spread(-0.693359375f), x);
    x = multiply_add(power, spread(2.12194440e-4f), x);
    Floats sum = spread(1.9875691500e-4f);
    for (const float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = multiply_add(sum, x, spread(coefficient));
    sum = multiply_add(sum, x * x, x + spread(1.0f));
    const __m256i bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127)), 23);
    return sum * _mm256_castsi256_ps(bits);
}

inline Floats hyperbolic_tangent(Floats x) { return spread(1.0f) - spread(2.0f) / (exponential(x + x) + spread(1.0f)); }

inline Floats silu(Floats x) { return x / (spread(1.0f) + exponential(-x)); }

// With the error function by Abramowitz and Stegun, 7.1.26: absolute error below 1.5e-7.
inline Floats gelu(Floats x) {
    const Floats scaled = absolute(x) * spread(0.70710678f);
    const Floats t = spread(1.0f) / multiply_add(spread(0.3275911f), scaled, spread(1.0f));
    Floats sum = spread(1.061405429f);
    for (const float coefficient : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
        sum = multiply_add(sum, t, spread(coefficient));
    const Floats tail = sum * t * exponential(-scaled * scaled);  // 1 - erf(scaled)
    const Floats half = spread(0.5f) * x;
    return half + absolute(half) * (spread(1.0f) - tail);  // erf is odd: its sign and that of x make a positive product
}

}  // namespace moonshine
