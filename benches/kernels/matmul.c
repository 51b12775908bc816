/* Floats in memory: the product of two matrices of n rows. */
enum { MOST = 64 };
static double a[MOST][MOST], b[MOST][MOST], c[MOST][MOST];

int run(int n) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            a[i][j] = i + 2 * j;
            b[i][j] = i - j;
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++) sum += a[i][k] * b[k][j];
            c[i][j] = sum;
        }
    return (int)(c[n / 2][n / 3] + c[n - 1][0]);
}
