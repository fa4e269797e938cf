# The image's header, its entry, and what exceptions and interrupts lead to.
#
# fw_entry: 64-bit mode in the staging slot, RDI = its guest-physical address, interrupts off, memory mapped one to one
# (src/abi.rs). Position independent until it has copied the image to where it is linked; no stack until then.

    .section .fw.header, "a", @progbits
    .balign 4096
    .globl fw_image_header
fw_image_header:                        # abi::ImageHeader
    .quad {image_magic}
    .long {abi_version}
    .long fw_entry_offset
    .long fw_entry_flat32_offset
    .long 0
    .quad fw_image_len
    .quad fw_memory_len

    .section .fw.entry, "ax", @progbits
    .balign 16
    .globl fw_entry
    .type fw_entry, @function
fw_entry:
    cli
    cld
    mov     r12, rdi                    # staging
    lea     rsi, [rip + fw_start]       # the image, where it is now
    mov     edi, {fw_base}              # and where it belongs
    mov     ecx, offset fw_image_qwords
    rep movsq
    mov     eax, offset fw_entry_private
    jmp     rax

fw_entry_private:                       # in private memory from here on
    mov     edi, offset fw_bss_start
    mov     ecx, offset fw_bss_qwords
    xor     eax, eax
    rep stosq
    mov     esp, offset fw_stack_top
    xor     ebp, ebp

    # Rust may use SSE registers (prebuilt core does): CR0.EM and TS off, MP on; CR4.OSFXSR and OSXMMEXCPT on.
    mov     rax, cr0
    and     eax, ~(1 << 2 | 1 << 3)
    or      eax, 1 << 1
    mov     cr0, rax
    mov     rax, cr4
    or      eax, 1 << 9 | 1 << 10
    mov     cr4, rax

    mov     rdi, r12
    call    fw_main
    ud2
    .size fw_entry, . - fw_entry

# fw_entry_flat32: SNP and TDX start here, in 32-bit mode with flat segments. What follows from there is not built: the
# firmware asks to be terminated, by the GHCB's MSR protocol, and says why.
    .code32
    .balign 16
    .globl fw_entry_flat32
    .type fw_entry_flat32, @function
fw_entry_flat32:
    cli
    mov     ecx, 0xc0010130             # GHCB MSR
    mov     eax, {termination}
    xor     edx, edx
    wrmsr
    rep vmmcall                         # VMGEXIT
1:  hlt
    jmp     1b
    .size fw_entry_flat32, . - fw_entry_flat32
    .code64

# One stub per exception: pushes zero where the CPU pushes no error code, then the vector, so that all frames are alike.
    .section .text.fw_exceptions, "ax", @progbits
    .balign 16
fw_exception_first:
    .set    fw_vector, 0
    .rept   {exceptions}
    .balign 16
    .if     fw_vector == 8 || fw_vector == 17 || fw_vector == 21 || fw_vector == 29 || fw_vector == 30
    .elseif fw_vector >= 10 && fw_vector <= 14
    .else
    .byte   0x6a, 0                     # push 0
    .endif
    .byte   0x6a, fw_vector             # push vector
    jmp     fw_exception_common
    .set    fw_vector, fw_vector + 1
    .endr

    .balign 16
    .type fw_exception_common, @function
fw_exception_common:
    cld
    mov     rdi, rsp                    # ExceptionFrame
    and     rsp, -16
    call    fw_exception
    ud2
    .size fw_exception_common, . - fw_exception_common

# The wake-up interrupt: acknowledges itself at the x2APIC. That it ended a HLT is all it is for.
    .balign 16
    .type fw_wake, @function
fw_wake:
    push    rax
    push    rcx
    push    rdx
    mov     ecx, 0x80b                  # EOI
    xor     eax, eax
    xor     edx, edx
    wrmsr
    pop     rdx
    pop     rcx
    pop     rax
    iretq
    .size fw_wake, . - fw_wake

# The addresses of all these, in the order of their vectors.
    .section .rodata.fw_gate_handlers, "a", @progbits
    .balign 8
    .globl fw_gate_handlers
    .type fw_gate_handlers, @object
fw_gate_handlers:
    .set    fw_vector, 0
    .rept   {exceptions}
    .quad   fw_exception_first + 16 * fw_vector
    .set    fw_vector, fw_vector + 1
    .endr
    .quad   fw_wake
    .size fw_gate_handlers, . - fw_gate_handlers
