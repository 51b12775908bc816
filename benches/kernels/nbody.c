/* Floats, with square roots: five bodies attract each other for n steps. */
enum { BODIES = 5 };
struct body { double x[3], v[3], mass; };
static struct body bodies[BODIES];

static void reset(void) {
    for (int i = 0; i < BODIES; i++) {
        struct body *b = &bodies[i];
        b->mass = i == 0 ? 40.0 : 0.01 * i;
        for (int k = 0; k < 3; k++) {
            b->x[k] = i * (5.0 + k) - 3.0 * k * (i & 1);
            b->v[k] = i == 0 ? 0.0 : (k - 1) * 2.0 / i;
        }
    }
}

static void advance(double dt) {
    for (int i = 0; i < BODIES; i++)
        for (int j = i + 1; j < BODIES; j++) {
            struct body *a = &bodies[i], *b = &bodies[j];
            double d[3], square = 0;
            for (int k = 0; k < 3; k++) {
                d[k] = a->x[k] - b->x[k];
                square += d[k] * d[k];
            }
            double force = dt / (square * __builtin_sqrt(square));
            for (int k = 0; k < 3; k++) {
                a->v[k] -= d[k] * b->mass * force;
                b->v[k] += d[k] * a->mass * force;
            }
        }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) bodies[i].x[k] += dt * bodies[i].v[k];
}

int run(int n) {
    double sum = 0;
    reset();
    for (int i = 0; i < n; i++) advance(0.01);
    for (int i = 0; i < BODIES; i++) sum += bodies[i].x[0] + bodies[i].x[1] + bodies[i].x[2];
    return (int)(sum * 1000);
}
