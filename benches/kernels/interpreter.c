/* A jump table in a loop: a machine with a stack runs a program for n turns. */
enum op { PUSH, LOAD, STORE, ADD, SUB, MUL, AND, XOR, SHIFT, LESS, JUMP_IF, JUMP, PRINT, HALT };

/* x and y start at 1 and 0; n times: if (x & 1) x = x * 3 + 1; else x = x >> 1 ^ n; y += x. */
static const signed char program[] = {
    LOAD, 0, PUSH, 1, SUB, STORE, 0,                    /* 0: n -= 1 */
    LOAD, 1, PUSH, 1, AND, JUMP_IF, 26,                 /* 7: odd? */
    LOAD, 1, PUSH, 1, SHIFT, LOAD, 0, XOR, STORE, 1, JUMP, 34, /* 14 */
    LOAD, 1, PUSH, 3, MUL, PUSH, 1, ADD,                /* 26 */
    LOAD, 2, LOAD, 1, ADD, STORE, 2,                    /* 34: y += x; the odd way leaves its x on the stack */
    PRINT, PUSH, 0, LOAD, 0, LESS, JUMP_IF, 0, HALT,    /* 41 */
};
static int stack[64], variables[4], printed;

static int execute(void) {
    const signed char *pc = program;
    int *sp = stack;
    for (;;) {
        switch (*pc++) {
        case PUSH: *sp++ = *pc++; break;
        case LOAD: *sp++ = variables[*pc++]; break;
        case STORE: variables[*pc++] = *--sp; break;
        case ADD: sp--, sp[-1] = (int)((unsigned)sp[-1] + (unsigned)sp[0]); break;
        case SUB: sp--, sp[-1] = (int)((unsigned)sp[-1] - (unsigned)sp[0]); break;
        case MUL: sp--, sp[-1] = (int)((unsigned)sp[-1] * (unsigned)sp[0]); break;
        case AND: sp--, sp[-1] &= sp[0]; break;
        case XOR: sp--, sp[-1] ^= sp[0]; break;
        case SHIFT: sp--, sp[-1] = (int)((unsigned)sp[-1] >> sp[0]); break;
        case LESS: sp--, sp[-1] = sp[-1] < sp[0]; break;
        case JUMP_IF: pc = *--sp ? program + *pc : pc + 1; break;
        case JUMP: pc = program + *pc; break;
        case PRINT:
            printed ^= variables[2];
            if (sp > stack) variables[1] = *--sp;
            break;
        default: return variables[2];
        }
    }
}

int run(int n) {
    variables[0] = n, variables[1] = 1, variables[2] = 0, printed = 0;
    return execute() + printed;
}
