/* Calls by pointer: a heap ordered by a function that is passed, of records with methods. */
typedef struct shape { int (*area)(const struct shape *); int a, b; } shape;
enum { MOST = 1 << 10 };
static shape shapes[MOST];

static int rectangle(const shape *s) { return s->a * s->b; }
static int triangle(const shape *s) { return s->a * s->b / 2; }
static int square(const shape *s) { return s->a * s->a; }
static int (*const areas[])(const shape *) = {rectangle, triangle, square};

static int smaller(const shape *l, const shape *r) { return l->area(l) < r->area(r); }
static int larger(const shape *l, const shape *r) { return l->area(l) > r->area(r); }

static void sink(shape *heap, int at, int n, int (*before)(const shape *, const shape *)) {
    for (;;) {
        int child = 2 * at + 1;
        if (child >= n) return;
        if (child + 1 < n && before(&heap[child], &heap[child + 1])) child++;
        if (!before(&heap[at], &heap[child])) return;
        shape swap = heap[at];
        heap[at] = heap[child], heap[child] = swap;
        at = child;
    }
}

static void sort(shape *heap, int n, int (*before)(const shape *, const shape *)) {
    for (int i = n / 2 - 1; i >= 0; i--) sink(heap, i, n, before);
    for (int i = n - 1; i > 0; i--) {
        shape swap = heap[0];
        heap[0] = heap[i], heap[i] = swap;
        sink(heap, 0, i, before);
    }
}

int run(int n) {
    unsigned seed = 7;
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        shapes[i] = (shape){areas[(seed >> 24) % 3], (int)(seed >> 8 & 1023), (int)(seed >> 18 & 1023)};
    }
    int (*volatile orders[2])(const shape *, const shape *) = {smaller, larger};
    sort(shapes, n, orders[0]);
    int least = shapes[0].area(&shapes[0]);
    sort(shapes, n, orders[1]);
    return least ^ shapes[n / 2].area(&shapes[n / 2]);
}
