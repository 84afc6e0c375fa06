//! Every ioctl and system call of PID 1.
