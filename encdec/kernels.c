/* What is done with every pixel outside the networks, each in one pass over the pixels: see kernels.py, which calls this.
 *
 * torch takes up to ten passes for the same, and beside an MLP these take up to a fifth of a training step.
 * Everything is built from e = exp(-|l|) in (0, 1]: no intermediate result overflows, whatever the logit l is.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* the best of these that the processor has is chosen when the library is loaded */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define INLINE static inline __attribute__((always_inline))

/* pixels that are summed up in float32, many at a time, before they are added to a sum in float64 */
enum { BLOCK = 512 };

/* images whose codes are weighed together: two lines of the cache */
enum { IMAGES = 32 };

/* exp(-a) for a >= 0, with a relative error of 1e-7; NaN for NaN.
 * exp(-a) = 2^n exp(r) with n = round(-a / log 2), |r| <= log(2) / 2; exp(r) by the polynomial of degree 6 whose largest
 * relative error is the least (Remez): 2e-9. */
INLINE float exp_of_minus(float a) {
    const float to_integer = 12582912.0f;                     /* 1.5 * 2^23: adding it rounds to an integer */
    const float log2_high = 0.693359375f, log2_low = -2.12194440e-4f; /* log 2 in two parts: n * high is exact */
    a = a > 87.0f ? 87.0f : a;                                /* from here on 2^n would not be a normal number */
    float n = (a * -1.44269504f + to_integer) - to_integer;
    float r = (-a - n * log2_high) - n * log2_low;
    float series = 1.38368461e-3f;
    series = series * r + 8.37481580e-3f;
    series = series * r + 4.16682256e-2f;
    series = series * r + 1.66664201e-1f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) * (1 << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

/* log(1 + e) for 0 <= e <= 1, with a relative error of 1e-7: e times the polynomial of degree 8 whose largest relative
 * error is the least (Remez), 3e-8. There is no division in it, which would take as long as all the rest. */
INLINE float log_of_one_plus(float e) {
    float series = 5.23269411e-3f;
    series = series * e - 2.95052373e-2f;
    series = series * e + 7.82259478e-2f;
    series = series * e - 1.36632453e-1f;
    series = series * e + 1.91060064e-1f;
    series = series * e - 2.48429821e-1f;
    series = series * e + 3.33190968e-1f;
    series = series * e - 4.99994931e-1f;
    series = series * e + 9.99999970e-1f;
    return series * e;
}

FOR_EACH_PROCESSOR
static void errors_of_row(const float *logits, const float *x, float *squared_error, float *cross_entropy, int64_t n) {
    double squares = 0, entropies = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t end = start + BLOCK < n ? start + BLOCK : n;
        float square = 0, entropy = 0;
#pragma omp simd reduction(+ : square, entropy)
        for (int64_t i = start; i < end; i++) {
            float l = logits[i], e = exp_of_minus(l < 0 ? -l : l), larger = 1.0f / (1.0f + e);
            float mean = l < 0 ? e * larger : larger, difference = mean - x[i];
            square += difference * difference;
            entropy += ((l < 0 ? 0.0f : l) - l * x[i]) + log_of_one_plus(e);
        }
        squares += square;
        entropies += entropy;
    }
    *squared_error = (float)squares;
    *cross_entropy = (float)entropies;
}

FOR_EACH_PROCESSOR
static void slope_of_row(const float *logits, const float *x, float of_squared, float of_cross, float *slope, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float l = logits[i], e = exp_of_minus(l < 0 ? -l : l), larger = 1.0f / (1.0f + e);
        float mean = l < 0 ? e * larger : larger, difference = mean - x[i];
        slope[i] = difference * (of_cross + 2.0f * of_squared * (e * larger * larger));
    }
}

FOR_EACH_PROCESSOR
static float softplus_of_row(const float *logits, int64_t n) {
    double sum = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t end = start + BLOCK < n ? start + BLOCK : n;
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = start; i < end; i++) {
            float l = logits[i];
            part += (l < 0 ? 0.0f : l) + log_of_one_plus(exp_of_minus(l < 0 ? -l : l));
        }
        sum += part;
    }
    return (float)sum;
}

FOR_EACH_PROCESSOR
static void softplus_slope_of_row(const float *logits, float of_sum, float *slope, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float l = logits[i], e = exp_of_minus(l < 0 ? -l : l), larger = of_sum / (1.0f + e);
        slope[i] = l < 0 ? e * larger : larger;
    }
}

/* `size` neighbouring images of the n that each code is compared with; their nll becomes their weights. If one is NaN,
 * so are its image's weights and sums. */
FOR_EACH_PROCESSOR
static void weights_of_images(
    float *nll, float *log_sum, float *least, int64_t *best, int64_t codes, int64_t n, int size) {
    float smallest[IMAGES];
    double sum[IMAGES];
    int64_t first[IMAGES];
    for (int i = 0; i < size; i++) {
        smallest[i] = INFINITY;
        sum[i] = 0;
        first[i] = 0;
    }
    for (int64_t code = 0; code < codes; code++) {
#pragma omp simd
        for (int i = 0; i < size; i++) {
            float value = nll[code * n + i];
            first[i] = value < smallest[i] ? code : first[i];
            smallest[i] = value < smallest[i] ? value : smallest[i];
        }
    }
    for (int64_t code = 0; code < codes; code++) {
#pragma omp simd
        for (int i = 0; i < size; i++) {
            float a = nll[code * n + i] - smallest[i], likelihood = a > 87.0f ? 0.0f : exp_of_minus(a);
            nll[code * n + i] = likelihood;
            sum[i] += likelihood;
        }
    }
    for (int i = 0; i < size; i++) {
        log_sum[i] = (float)(log(sum[i]) - smallest[i]);
        least[i] = sum[i] == sum[i] ? smallest[i] : NAN;
        best[i] = first[i];
        smallest[i] = (float)(1 / sum[i]);
    }
    for (int64_t code = 0; code < codes; code++) {
#pragma omp simd
        for (int i = 0; i < size; i++)
            nll[code * n + i] *= smallest[i];
    }
}

FOR_EACH_PROCESSOR
static void scale_row(const uint8_t *pixels, float *x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)pixels[i] / 255.0f;
}

/* Raised with every change of a function that kernels.py calls: what a working copy has compiled may be older. */
int encdec_kernels_interface(void) { return 2; }

/* x = pixels / 255, rounded as a division rounds */
void encdec_scale_pixels(const uint8_t *pixels, float *x, int64_t rows, int64_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        scale_row(pixels + row * n, x + row * n, n);
}

/* Rows of n logits and n pixels. A NULL gradient is zero. */
void encdec_pixel_errors(
    const float *logits, const float *x, float *squared_error, float *cross_entropy, int64_t rows, int64_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        errors_of_row(logits + row * n, x + row * n, squared_error + row, cross_entropy + row, n);
}

void encdec_pixel_slopes(
    const float *logits, const float *x, const float *of_squared_error, const float *of_cross_entropy, float *slope,
    int64_t rows, int64_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++) {
        float of_squared = of_squared_error ? of_squared_error[row] : 0, of_cross = of_cross_entropy ? of_cross_entropy[row] : 0;
        slope_of_row(logits + row * n, x + row * n, of_squared, of_cross, slope + row * n, n);
    }
}

/* sum of softplus(logits) of each row */
void encdec_softplus_sums(const float *logits, float *sums, int64_t rows, int64_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        sums[row] = softplus_of_row(logits + row * n, n);
}

void encdec_softplus_slopes(const float *logits, const float *of_sums, float *slopes, int64_t rows, int64_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        softplus_slope_of_row(logits + row * n, of_sums[row], slopes + row * n, n);
}

/* -log likelihoods of codes x images become, for each image, the codes' weights softmax(-nll); also the log of the sum of
 * exp(-nll), the least nll and the first code that has it */
void encdec_likelihood_weights(
    float *nll, float *log_sums, float *least, int64_t *best, int64_t codes, int64_t n, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; i += IMAGES)
        weights_of_images(nll + i, log_sums + i, least + i, best + i, codes, n, (int)(n - i < IMAGES ? n - i : IMAGES));
}
