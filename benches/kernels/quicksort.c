/* Branches that nobody can predict, and recursion: n numbers in order. */
enum { MOST = 1 << 14 };
static int numbers[MOST];

static void sort(int *first, int *last) {
    while (last - first > 12) {
        int pivot = first[(last - first) / 2], *i = first - 1, *j = last + 1;
        for (;;) {
            do i++; while (*i < pivot);
            do j--; while (*j > pivot);
            if (i >= j) break;
            int swap = *i;
            *i = *j, *j = swap;
        }
        sort(first, j);
        first = j + 1;
    }
    for (int *i = first + 1; i <= last; i++) {
        int moving = *i, *j = i;
        for (; j > first && j[-1] > moving; j--) *j = j[-1];
        *j = moving;
    }
}

int run(int n) {
    unsigned seed = 1;
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        numbers[i] = (int)(seed >> 3);
    }
    sort(numbers, numbers + n - 1);
    for (int i = 1; i < n; i++)
        if (numbers[i - 1] > numbers[i]) return -1;
    return numbers[n / 2];
}
