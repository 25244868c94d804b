/* Small matrix products: C[m][n] (+)= sum_k A[m * a_row + k * a_column] B[k * b_row + n], n in the lanes.
 *
 * A is read number by number, so that either of its axes may be the contiguous one. Rows come in fours, and widths in
 * vectors: operands are padded.
 */

#define product_tile NAME(product_tile)
#define product NAME(product)
#define transpose NAME(transpose)

INLINE void product_tile(const int vectors, int64_t depth, const float *A, int64_t a_row, int64_t a_column,
                         const float *B, int64_t b_row, float *C, int64_t c_row, int add) {
    vf sum[4][4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) sum[i][j] = (vf){};
    for (int64_t k = 0; k < depth; k++) {
        const float *a = A + k * a_column, *b = B + k * b_row;
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            vf row = load(b + j * W);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) sum[i][j] += a[i * a_row] * row;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            float *to = C + i * c_row + j * W; /* added at the end: the sum is rounded at its own size */
            store(to, add ? load(to) + sum[i][j] : sum[i][j]);
        }
}

/* rows: a multiple of 4; width: of W */
static void product(int64_t rows, int64_t width, int64_t depth, const float *A, int64_t a_row, int64_t a_column,
                    const float *B, int64_t b_row, float *C, int64_t c_row, int add) {
    for (int64_t m = 0; m < rows; m += 4) {
        const float *a = A + m * a_row;
        float *c = C + m * c_row;
        int64_t n = 0;
        if (W == 16)
            for (; n + 4 * W <= width; n += 4 * W)
                product_tile(W == 16 ? 4 : 1, depth, a, a_row, a_column, B + n, b_row, c + n, c_row, add);
        for (; n + 2 * W <= width; n += 2 * W)
            product_tile(2, depth, a, a_row, a_column, B + n, b_row, c + n, c_row, add);
        for (; n < width; n += W) product_tile(1, depth, a, a_row, a_column, B + n, b_row, c + n, c_row, add);
    }
}

/* to[column][row] = from[row][column]; both counts are multiples of 4. */
static void transpose(int64_t rows, int64_t columns, const float *from, int64_t from_row, float *to, int64_t to_row) {
    for (int64_t r = 0; r < rows; r += 4)
        for (int64_t c = 0; c < columns; c += 4)
            for (int64_t i = 0; i < 4; i++)
                for (int64_t j = 0; j < 4; j++) to[(c + i) * to_row + r + j] = from[(r + j) * from_row + c + i];
}
