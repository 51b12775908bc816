/* A mix like CoreMark's: lists, matrices of integers, a state machine over text, a checksum over all; n rounds. */
typedef struct node { struct node *next; short value, index; } node;
enum { NODES = 64, SIZE = 10 };
static node nodes[NODES];
static short a[SIZE][SIZE], b[SIZE][SIZE];
static int c[SIZE][SIZE];
static const char text[] = "12,-3.5,+0x1f,1e5,.25,hello,7e-3,T0.3e-1F,-110,+64874,3.e+9,,99,-,";

static unsigned crc(unsigned value, unsigned sum) {
    for (int i = 0; i < 16; i++) {
        unsigned bit = (value ^ sum) & 1;
        value >>= 1, sum >>= 1;
        if (bit) sum ^= 0xa001;
    }
    return sum;
}

static node *reverse(node *list) {
    node *done = 0;
    while (list) {
        node *next = list->next;
        list->next = done, done = list, list = next;
    }
    return done;
}

static node *merge(node *l, node *r) {
    node head, *tail = &head;
    while (l && r) {
        node **least = l->value <= r->value ? &l : &r;
        tail->next = *least, tail = *least, *least = tail->next;
    }
    tail->next = l ? l : r;
    return head.next;
}

static node *sort(node *list, int n) {
    if (n < 2) return list;
    node *middle = list;
    for (int i = 1; i < n / 2; i++) middle = middle->next;
    node *rest = middle->next;
    middle->next = 0;
    return merge(sort(list, n / 2), sort(rest, n - n / 2));
}

static unsigned lists(int round, unsigned sum) {
    for (int i = 0; i < NODES; i++) {
        nodes[i].next = i + 1 < NODES ? &nodes[i + 1] : 0;
        nodes[i].value = (short)(i * 7919 ^ round * 31), nodes[i].index = (short)i;
    }
    node *list = reverse(nodes);
    for (int wanted = 0; wanted < NODES; wanted += 5) {
        node *at = list;
        while (at && at->index != wanted) at = at->next;
        sum = crc((unsigned short)at->value, sum);
    }
    for (node *at = sort(list, NODES); at; at = at->next) sum += (unsigned)(at->value * at->index);
    return crc(sum & 0xffff, sum >> 16);
}

static unsigned matrices(int round, unsigned sum) {
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) a[i][j] = (short)(i * j + round), b[i][j] = (short)(i - j);
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            c[i][j] = 0;
            for (int k = 0; k < SIZE; k++) c[i][j] += a[i][k] * b[k][j];
            sum += (unsigned)(c[i][j] >> 2 & 15) * (unsigned)(c[i][j] >> 5 & 127);
        }
    return crc(sum & 0xffff, sum >> 16);
}

/* Which kinds of numbers the text holds. */
static unsigned states(int round, unsigned sum) {
    enum { START, SIGN, WHOLE, POINT, EXPONENT, POWER, INVALID } state = START;
    unsigned counts[7] = {0};
    for (int i = 0; text[i]; i++) {
        char ch = (char)(text[i] ^ (i % 23 == round % 23));
        int digit = ch >= '0' && ch <= '9';
        if (ch == ',') {
            counts[state]++, state = START;
            continue;
        }
        switch (state) {
        case START: state = digit ? WHOLE : ch == '+' || ch == '-' ? SIGN : ch == '.' ? POINT : INVALID; break;
        case SIGN: state = digit ? WHOLE : ch == '.' ? POINT : INVALID; break;
        case WHOLE: state = digit ? WHOLE : ch == '.' ? POINT : ch == 'e' ? EXPONENT : INVALID; break;
        case POINT: state = digit ? POINT : ch == 'e' ? EXPONENT : INVALID; break;
        case EXPONENT: state = digit || ch == '+' || ch == '-' ? POWER : INVALID; break;
        case POWER: state = digit ? POWER : INVALID; break;
        case INVALID: break;
        }
    }
    for (int i = 0; i < 7; i++) sum = crc(counts[i], sum);
    return sum;
}

int run(int n) {
    unsigned sum = 0;
    for (int i = 0; i < n; i++) sum = states(i, matrices(i, lists(i, sum)));
    return (int)sum;
}
