#include "textflag.h"

// func detectAVX2() bool
TEXT ·detectAVX2(SB), NOSPLIT, $0-1
	MOVB $0, ret+0(FP)
	MOVL $0, AX
	CPUID
	CMPL AX, $7
	JLT  no
	MOVL $1, AX
	XORL CX, CX
	CPUID
	ANDL $0x18000000, CX // OSXSAVE and AVX
	CMPL CX, $0x18000000
	JNE  no
	XORL CX, CX
	XGETBV
	ANDL $6, AX          // the system saves XMM and YMM
	CMPL AX, $6
	JNE  no
	MOVL $7, AX
	XORL CX, CX
	CPUID
	SHRL $5, BX          // AVX2
	ANDL $1, BX
	MOVB BX, ret+0(FP)
no:
	RET

// One round of eight lanes: s = (s^word)*prime ^ (s^word)>>17. Y8 has the prime in all lanes.
#define MIX(s, tmp) \
	VPSRLD  $17, s, tmp; \
	VPMULLD Y8, s, s;    \
	VPXOR   tmp, s, s

// func checksumAVX2(page *byte, n int, offsets *[lanes]uint32) uint32
TEXT ·checksumAVX2(SB), NOSPLIT, $0-28
	MOVQ page+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ offsets+16(FP), DI
	VMOVDQU (DI), Y0
	VMOVDQU 32(DI), Y1
	VMOVDQU 64(DI), Y2
	VMOVDQU 96(DI), Y3
	MOVL $16777619, AX
	VMOVD AX, X8
	VPBROADCASTD X8, Y8

	// The first row: pd_checksum, the lower half of the third word, counts as 0. What XORing the row brings in of it, XORing it
	// once more takes out.
	MOVWLZX 8(SI), AX
	VMOVD AX, X9
	VPSLLDQ $8, X9, X9
	VPXOR Y9, Y0, Y0

row:
	VPXOR (SI), Y0, Y0
	VPXOR 32(SI), Y1, Y1
	VPXOR 64(SI), Y2, Y2
	VPXOR 96(SI), Y3, Y3
	MIX(Y0, Y4)
	MIX(Y1, Y5)
	MIX(Y2, Y6)
	MIX(Y3, Y7)
	ADDQ $128, SI
	DECQ CX
	JNZ  row

	MOVQ $2, CX
zeros:
	MIX(Y0, Y4)
	MIX(Y1, Y5)
	MIX(Y2, Y6)
	MIX(Y3, Y7)
	DECQ CX
	JNZ  zeros

	VPXOR Y1, Y0, Y0
	VPXOR Y3, Y2, Y2
	VPXOR Y2, Y0, Y0
	VEXTRACTI128 $1, Y0, X1
	VPXOR X1, X0, X0
	VPSHUFD $0x4E, X0, X1
	VPXOR X1, X0, X0
	VPSHUFD $0xB1, X0, X1
	VPXOR X1, X0, X0
	VMOVD X0, AX
	VZEROUPPER
	MOVL AX, ret+24(FP)
	RET
