// Vectors of floats, and the functions that Moonshine's activations need. One vector is what one instruction takes: 16 with AVX-512, else 8.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace moonshine {

typedef uint16_t Half;      // IEEE half precision, as bits
typedef uint16_t Bfloat16;  // the upper half of a float

#ifdef __AVX512F__

constexpr int LANES = 16;

typedef __m512 Floats;
typedef __m512i Bytes;

inline Floats spread(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Floats load(const Half* from) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
inline void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }
inline void store(Half* to, Floats values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats absolute(Floats a) { return _mm512_abs_ps(a); }
inline Floats rounded(Floats a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum_of(Floats values) { return _mm512_reduce_add_ps(values); }
inline float largest_of(Floats values) { return _mm512_reduce_max_ps(values); }

// 2 to the power of a whole number from -126 to 127.
inline Floats power_of_two(Floats whole) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127)), 23));
}

// Rounded to int8; what does not fit becomes the nearest that does.
inline void store_int8(int8_t* to, Floats values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(values)));
}

inline Bytes load_bytes(const int8_t* from) { return _mm512_load_si512(from); }
inline Bytes spread_bytes(int four) { return _mm512_set1_epi32(four); }
inline Floats floats_of(Bytes whole) { return _mm512_cvtepi32_ps(whole); }
inline Floats upper_halves(Bytes pairs) { return _mm512_castsi512_ps(_mm512_and_si512(pairs, spread_bytes(int(0xffff0000)))); }
inline Floats lower_halves(Bytes pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline Bytes difference(Bytes a, Bytes b) { return _mm512_sub_epi32(a, b); }

#else

constexpr int LANES = 8;

typedef __m256 Floats;
typedef __m256i Bytes;

inline Floats spread(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline Floats load(const Half* from) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
inline void store(float* to, Floats values) { _mm256_storeu_ps(to, values); }
inline void store(Half* to, Floats values) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats absolute(Floats a) { return _mm256_andnot_ps(spread(-0.0f), a); }
inline Floats rounded(Floats a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

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

// 2 to the power of a whole number from -126 to 127.
inline Floats power_of_two(Floats whole) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23));
}

// Rounded to int8; what does not fit becomes the nearest that does.
inline void store_int8(int8_t* to, Floats values) {
    const __m256i whole = _mm256_cvtps_epi32(values);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
}

inline Bytes load_bytes(const int8_t* from) { return _mm256_load_si256(reinterpret_cast<const Bytes*>(from)); }
inline Bytes spread_bytes(int four) { return _mm256_set1_epi32(four); }
inline Floats floats_of(Bytes whole) { return _mm256_cvtepi32_ps(whole); }
inline Floats upper_halves(Bytes pairs) { return _mm256_castsi256_ps(_mm256_and_si256(pairs, spread_bytes(int(0xffff0000)))); }
inline Floats lower_halves(Bytes pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline Bytes difference(Bytes a, Bytes b) { return _mm256_sub_epi32(a, b); }

#endif

// To the nearest bfloat16, of two as near to the even one. The NaN that arithmetic gives stays one.
inline Bfloat16 bfloat16_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<Bfloat16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void store(float* to, float value) { *to = value; }
inline void store(Half* to, float value) { *to = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

// Cephes' expf: relative error below 2e-7. What is below -87 gives a number next to zero, not zero. NaN stays NaN: of two operands of
// which one is NaN, the instructions for the smaller and the larger give the second.
inline Floats exponential(Floats x) {
    x = larger(spread(-87.0f), smaller(spread(88.0f), x));
    const Floats power = rounded(x * spread(1.44269504f));
    x = multiply_add(power, spread(-0.693359375f), x);
    x = multiply_add(power, spread(2.12194440e-4f), x);
    Floats sum = spread(1.9875691500e-4f);
    for (const float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = multiply_add(sum, x, spread(coefficient));
    sum = multiply_add(sum, x * x, x + spread(1.0f));
    return sum * power_of_two(power);
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
