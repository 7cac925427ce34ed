// The instruction of AVX-VNNI that engine_build/native/ uses, in plain C++: its code for it runs on any processor with AVX2. To be
// included before everything else.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AVXVNNI__ 1

namespace emulated {

inline __m256i add_products(__m256i sum, __m256i from, __m256i times)
{
    uint8_t a[32];
    int8_t b[32];
    int32_t total[8];
    std::memcpy(a, &from, sizeof a), std::memcpy(b, &times, sizeof b), std::memcpy(total, &sum, sizeof total);
    for (int lane = 0; lane < 8; ++lane)
        for (int byte = 0; byte < 4; ++byte) total[lane] += a[4 * lane + byte] * b[4 * lane + byte];
    std::memcpy(&sum, total, sizeof total);
    return sum;
}

}  // namespace emulated

#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32 emulated::add_products
