//! The hypervisor as the handlers see it: plain values and one handle; libvirt behind it.
