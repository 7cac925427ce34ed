// The instructions of AVX-512 and VNNI that engine_build/native/ uses, in plain C++: its code for them runs on any processor with
// AVX2. To be included before everything else.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __AVX512F__ 1
#define __AVX512VNNI__ 1
#define EMULATED 1  // for what is written in assembly

namespace emulated {

typedef int32_t Ints __attribute__((vector_size(64)));

template <class To, class From, class Function>
inline To each(From from, const Function& function)
{
    To to;
    for (int lane = 0; lane < 16; ++lane) to[lane] = function(from[lane], lane);
    return to;
}
inline __m512 of_floats(const float *from) { __m512 to; std::memcpy(&to, from, sizeof to); return to; }
inline void to_floats(float *to, __m512 from) { std::memcpy(to, &from, sizeof from); }
inline __m512 of_halves(__m256i from)
{
    uint16_t halves[16];
    std::memcpy(halves, &from, sizeof from);
    __m512 to;
    for (int lane = 0; lane < 16; ++lane) to[lane] = _cvtsh_ss(halves[lane]);
    return to;
}
inline __m256i to_halves(__m512 from)
{
    uint16_t halves[16];
    for (int lane = 0; lane < 16; ++lane) halves[lane] = _cvtss_sh(from[lane], 0);
    __m256i to;
    std::memcpy(&to, halves, sizeof to);
    return to;
}
inline __m512i whole(Ints ints) { return (__m512i)ints; }
inline Ints ints(__m512i bits) { return (Ints)bits; }
inline __m128i to_bytes(__m512i from)
{
    int8_t bytes[16];
    for (int lane = 0; lane < 16; ++lane) bytes[lane] = static_cast<int8_t>(std::min(127, std::max(-128, ints(from)[lane])));
    __m128i to;
    std::memcpy(&to, bytes, sizeof to);
    return to;
}
inline __m512i add_products(__m512i sum, __m512i number, __m512i weight)
{
    uint8_t a[64];
    int8_t b[64];
    std::memcpy(a, &number, sizeof a);
    std::memcpy(b, &weight, sizeof b);
    Ints total = ints(sum);
    for (int lane = 0; lane < 16; ++lane)
        for (int byte = 0; byte < 4; ++byte) total[lane] += a[4 * lane + byte] * b[4 * lane + byte];
    return whole(total);
}
inline float sum_of(__m512 from) { float sum = 0; for (int lane = 0; lane < 16; ++lane) sum += from[lane]; return sum; }
inline float largest_of(__m512 from)
{
    float most = from[0];
    for (int lane = 1; lane < 16; ++lane) most = from[lane] > most ? from[lane] : most;
    return most;
}

}  // namespace emulated

#define _mm512_set1_ps(value) emulated::each<__m512>(__m512{}, [&](float, int) { return value; })
#define _mm512_set1_epi32(value) emulated::whole(emulated::each<emulated::Ints>(emulated::Ints{}, [&](int, int) { return value; }))
#define _mm512_loadu_ps emulated::of_floats
#define _mm512_storeu_ps emulated::to_floats
#define _mm512_cvtph_ps emulated::of_halves
#define _mm512_cvtps_ph(from, rounding) emulated::to_halves(from)
#define _mm512_fmadd_ps(a, b, c) emulated::each<__m512>(a, [&](float x, int lane) { return std::fma(x, (b)[lane], (c)[lane]); })
#define _mm512_max_ps(a, b) emulated::each<__m512>(a, [&](float x, int lane) { return x > (b)[lane] ? x : (b)[lane]; })
#define _mm512_min_ps(a, b) emulated::each<__m512>(a, [&](float x, int lane) { return x < (b)[lane] ? x : (b)[lane]; })
#define _mm512_abs_ps(a) emulated::each<__m512>(a, [](float x, int) { return std::fabs(x); })
#define _mm512_roundscale_ps(a, rounding) emulated::each<__m512>(a, [](float x, int) { return std::nearbyint(x); })
#define _mm512_cvtps_epi32(a) \
    emulated::whole(emulated::each<emulated::Ints>(a, [](float x, int) { return static_cast<int>(std::nearbyint(x)); }))
#define _mm512_cvtepi32_ps(a) emulated::each<__m512>(emulated::ints(a), [](int x, int) { return static_cast<float>(x); })
#define _mm512_and_si512(a, b) emulated::whole(emulated::ints(a) & emulated::ints(b))
#define _mm512_add_epi32(a, b) emulated::whole(emulated::ints(a) + emulated::ints(b))
#define _mm512_sub_epi32(a, b) emulated::whole(emulated::ints(a) - emulated::ints(b))
#define _mm512_slli_epi32(a, bits) emulated::whole(emulated::ints(a) << (bits))
#define _mm512_castsi512_ps(a) ((__m512)(a))
#define _mm512_cvtsepi32_epi8 emulated::to_bytes
#define _mm512_load_si512(from) (*reinterpret_cast<const __m512i *>(from))
#define _mm512_dpbusd_epi32 emulated::add_products
#define _mm512_reduce_add_ps emulated::sum_of
#define _mm512_reduce_max_ps emulated::largest_of
