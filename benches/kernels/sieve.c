/* Bytes in memory: the number of primes below n, by Eratosthenes. */
enum { MOST = 1 << 16 };
static unsigned char composite[MOST];

int run(int n) {
    int primes = 0;
    for (int i = 0; i < n; i++) composite[i] = 0;
    for (int i = 2; i < n; i++) {
        if (composite[i]) continue;
        primes++;
        for (int j = i + i; j < n; j += i) composite[j] = 1;
    }
    return primes;
}
