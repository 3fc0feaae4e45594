/* Answers CPUID for code whose CPUID instructions were replaced by UD2, as an older processor would.

   cc -shared -fPIC -O2 -o mask_cpuid.so mask_cpuid.c; CPUID_LIMIT=AVX2 LD_PRELOAD=./mask_cpuid.so ...
   See mask_cpuid.py. x86-64 Linux. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

/* registers of leaf 7 whose bits are cleared, by sub-leaf */
static unsigned clear_ebx_0, clear_ecx_0, clear_edx_0, clear_eax_1, clear_edx_1;

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned char *code = (unsigned char *)registers[REG_RIP];
    unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX];
    unsigned a, b, c, d;
    (void)info;
    if (code[0] != 0x0f || code[1] != 0x0b) { /* a real fault */
        signal(number, SIG_DFL);
        return;
    }
    __cpuid_count(leaf, part, a, b, c, d);
    if (leaf == 7 && part == 0) {
        b &= ~clear_ebx_0;
        c &= ~clear_ecx_0;
        d &= ~clear_edx_0;
    } else if (leaf == 7 && part == 1) {
        a &= ~clear_eax_1;
        d &= ~clear_edx_1;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char *limit = getenv("CPUID_LIMIT");
    struct sigaction action;
    if (limit == NULL)
        return;
    /* AMX, AVX512-FP16; bfloat16, AVX-VNNI and later */
    clear_edx_0 = BIT(22) | BIT(23) | BIT(24) | BIT(25);
    clear_eax_1 = BIT(4) | BIT(5) | BIT(21) | BIT(23);
    clear_edx_1 = BIT(4) | BIT(5) | BIT(10);
    if (strcmp(limit, "AVX512_CORE_VNNI") != 0) {
        clear_ecx_0 = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14); /* VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
        clear_ebx_0 = BIT(21);                                       /* IFMA */
    }
    if (strcmp(limit, "AVX2") == 0) /* AVX-512 */
        clear_ebx_0 |= BIT(16) | BIT(17) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, NULL);
}
