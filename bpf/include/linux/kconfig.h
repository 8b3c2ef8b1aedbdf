// BCC asks for this file before it takes a folder for kernel headers. The programs here use UAPI contexts only, which
// BCC carries itself, so these few stand-ins are all of the "kernel headers" they need.
#define CONFIG_BPF_SYSCALL 1
