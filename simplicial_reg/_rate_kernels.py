"""What the processor can do at best, for the floor that `simplicial_reg.bench` compares with: products, as quickly as a kernel makes them.

Importing this module loads Numba, which compiles the kernel at its first call and keeps it on disk; so it is imported on use.
"""

from simplicial_reg._jit import kernel

__all__ = ["products"]


@kernel(fastmath={"reassoc", "contract", "nsz"})
def products(x, y, out, first, step):
    """Products of rows of ``x`` (m, d) with rows of ``y`` (k, d) into ``out`` (m, k), m and k multiples of four.

    Sixteen at a time, as the lengths in `_point_kernels`, with one operation for each coordinate where those have two.
    """
    d = x.shape[1]
    zero = x.dtype.type(0)
    for i in range(4 * first, x.shape[0], 4 * step):
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(0, y.shape[0], 4):
            y0, y1, y2, y3 = y[j], y[j + 1], y[j + 2], y[j + 3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = zero
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
            for c in range(d):
                s00 += x0[c] * y0[c]
                s01 += x0[c] * y1[c]
                s02 += x0[c] * y2[c]
                s03 += x0[c] * y3[c]
                s10 += x1[c] * y0[c]
                s11 += x1[c] * y1[c]
                s12 += x1[c] * y2[c]
                s13 += x1[c] * y3[c]
                s20 += x2[c] * y0[c]
                s21 += x2[c] * y1[c]
                s22 += x2[c] * y2[c]
                s23 += x2[c] * y3[c]
                s30 += x3[c] * y0[c]
                s31 += x3[c] * y1[c]
                s32 += x3[c] * y2[c]
                s33 += x3[c] * y3[c]
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = s00, s01, s02, s03
            out[i + 1, j], out[i + 1, j + 1], out[i + 1, j + 2], out[i + 1, j + 3] = s10, s11, s12, s13
            out[i + 2, j], out[i + 2, j + 1], out[i + 2, j + 2], out[i + 2, j + 3] = s20, s21, s22, s23
            out[i + 3, j], out[i + 3, j + 1], out[i + 3, j + 2], out[i + 3, j + 3] = s30, s31, s32, s33
