# What the compiler calls to move memory. On this target the C library would bring them, and there is none. In assembly,
# so that the compiler cannot turn their loops back into calls of themselves. The image gives them the names the compiler
# knows (image/mod.rs); under their own names they can be tested beside a C library.

    .section .text.fw_memory, "ax", @progbits

    .balign 16
    .globl fw_memcpy
    .type fw_memcpy, @function
fw_memcpy:                                 # (rdi to, rsi from, rdx length) -> rax to
    mov     rax, rdi
    mov     rcx, rdx
    shr     rcx, 3
    rep movsq
    mov     ecx, edx
    and     ecx, 7
    rep movsb
    ret
    .size fw_memcpy, . - fw_memcpy

    .balign 16
    .globl fw_memmove
    .type fw_memmove, @function
fw_memmove:
    mov     rax, rdi
    mov     rcx, rdi
    sub     rcx, rsi                    # to - from, unsigned: below the length only if a forward copy would overtake
    cmp     rcx, rdx
    jae     fw_memcpy
    mov     rcx, rdx
    lea     rdi, [rdi + rdx - 1]
    lea     rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret
    .size fw_memmove, . - fw_memmove

    .balign 16
    .globl fw_memset
    .type fw_memset, @function
fw_memset:                                 # (rdi to, esi byte, rdx length) -> rax to
    mov     r8, rdi
    movzx   eax, sil
    mov     rcx, 0x0101010101010101
    imul    rax, rcx
    mov     rcx, rdx
    shr     rcx, 3
    rep stosq
    mov     ecx, edx
    and     ecx, 7
    rep stosb
    mov     rax, r8
    ret
    .size fw_memset, . - fw_memset

    .balign 16
    .globl fw_memcmp
    .type fw_memcmp, @function
fw_memcmp:                                 # (rdi, rsi, rdx length) -> eax <0, 0, >0
    xor     eax, eax
    mov     rcx, rdx
    cmp     rcx, rcx                    # equal, should there be nothing to compare
    repe cmpsb
    je      1f
    movzx   eax, byte ptr [rdi - 1]
    movzx   ecx, byte ptr [rsi - 1]
    sub     eax, ecx
1:  ret
    .size fw_memcmp, . - fw_memcmp
