# Where other processors start: real mode, CS:IP = AP_TRAMPOLINE >> 4 : 0. Copied to AP_TRAMPOLINE, so everything here is
# addressed relative to its start. Goes straight to 64-bit mode, enables x2APIC, and calls the entry in the parameters
# (selftest::smp::Parameters) with the x2APIC id, on the stack at the end of this processor's area.

    .section .rodata.fw_trampoline, "a", @progbits
    .balign 16
    .globl fw_trampoline
    .type fw_trampoline, @object
fw_trampoline:
    .code16
    jmp     1f
    .balign 8                                       # offset 8: GDT pointer
    .word   fw_trampoline_gdt_end - fw_trampoline_gdt - 1
    .long   {trampoline} + 0x10
    .balign 16                                      # offset 0x10: GDT
fw_trampoline_gdt:
    .quad   0, 0
    .quad   0x00af9b000000ffff                      # 0x10: 64-bit code
    .quad   0x00cf93000000ffff                      # 0x18: data
fw_trampoline_gdt_end:

1:  cli
    cld
    mov     ax, cs
    mov     ds, ax
    lgdt    [8]

    mov     eax, cr4
    or      eax, 1 << 5 | 1 << 9 | 1 << 10          # PAE, OSFXSR, OSXMMEXCPT
    mov     cr4, eax
    mov     eax, [{parameters} + {page_tables}]
    mov     cr3, eax
    mov     ecx, 0xc0000080                         # EFER
    rdmsr
    or      eax, 1 << 8 | 1 << 11                   # LME, NXE
    wrmsr
    mov     eax, 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1 << 0  # PG, WP, NE, ET, MP, PE; caches on
    mov     cr0, eax
    .byte   0x66, 0xea                              # far jump, 32-bit offset
    .long   {trampoline} + fw_trampoline_64 - fw_trampoline
    .word   0x10

    .code64
fw_trampoline_64:
    mov     eax, 0x18
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     ecx, 0x1b                               # IA32_APIC_BASE
    rdmsr
    or      eax, 1 << 11                            # EN first, then EXTD too
    wrmsr
    or      eax, 1 << 10
    wrmsr
    mov     ecx, 0x802                              # x2APIC id
    rdmsr
    mov     edi, eax
    mov     ebx, {trampoline} + {parameters}
    cmp     rdi, [rbx + {vcpus}]
    jae     1f                                      # nobody we know: there is no stack for it
    mov     eax, edi
    inc     rax
    imul    rax, [rbx + {area_len}]
    add     rax, [rbx + {areas}]
    mov     rsp, rax
    xor     ebp, ebp
    call    [rbx + {entry}]
1:  cli
    hlt
    jmp     1b

    .globl fw_trampoline_end
fw_trampoline_end:
    .size fw_trampoline, . - fw_trampoline
