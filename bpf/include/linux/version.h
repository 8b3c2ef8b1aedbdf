// The oldest kernel with sk_lookup. BCC only uses it to choose between helpers that all kernels since then have.
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 9, 0)
