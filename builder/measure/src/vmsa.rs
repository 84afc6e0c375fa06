//! The initial register state of a vCPU: one measured page each.

use crate::PAGE_BYTES;
use crate::digest::{Shape, Vmm};

/// Where the boot processor starts: the x86 reset vector.
pub const BSP_EIP: u32 = 0xffff_fff0;

/// Byte offsets in a VMSA. All integers are little-endian.
///
/// Source: AMD 24593, "APM volume 2", table B-4 (VMSA layout, state-save area for SEV-ES and SEV-SNP).
mod offset {
    pub const ES: usize = 0x000; // segments: selector u16, attributes u16, limit u32, base u64
    pub const CS: usize = 0x010;
    pub const SS: usize = 0x020;
    pub const DS: usize = 0x030;
    pub const FS: usize = 0x040;
    pub const GS: usize = 0x050;
    pub const GDTR: usize = 0x060;
    pub const LDTR: usize = 0x070;
    pub const IDTR: usize = 0x080;
    pub const TR: usize = 0x090;
    pub const EFER: usize = 0x0d0;
    pub const CR4: usize = 0x148;
    pub const CR0: usize = 0x158;
    pub const DR7: usize = 0x160;
    pub const DR6: usize = 0x168;
    pub const RFLAGS: usize = 0x170;
    pub const RIP: usize = 0x178;
    pub const G_PAT: usize = 0x268;
    pub const RDX: usize = 0x310;
    pub const SEV_FEATURES: usize = 0x3b0;
    pub const XCR0: usize = 0x3e8;
    pub const MXCSR: usize = 0x408; // u32
    pub const X87_FCW: usize = 0x410; // u16
}

/// What a VMM leaves in the registers where VMMs differ.
struct Quirks {
    cs_attributes: u16,
    ss_attributes: u16,
    tr_attributes: u16,
    g_pat: u64,
    rdx: u64,
    mxcsr: u32,
    x87_fcw: u16,
}

impl Quirks {
    fn of(shape: &Shape, eip: u32) -> Self {
        // PAT after reset: AMD 24593, section A.3.
        let g_pat = 0x0007_0406_0007_0406;
        match shape.vmm {
            Vmm::Qemu => Self {
                cs_attributes: 0x9b,
                ss_attributes: 0x93,
                tr_attributes: 0x8b,
                g_pat,
                rdx: u64::from(shape.cpu.signature()),
                mxcsr: 0x1f80,
                x87_fcw: 0x37f,
            },
            Vmm::Ec2 => Self {
                cs_attributes: if eip == BSP_EIP { 0x9a } else { 0x9b },
                ss_attributes: 0x92,
                tr_attributes: 0x83,
                g_pat,
                rdx: 0x600,
                mxcsr: 0,
                x87_fcw: 0,
            },
            Vmm::Gce => {
                Self { cs_attributes: 0x9b, ss_attributes: 0x93, tr_attributes: 0x8b, g_pat: 0x0007_0106, rdx: 0x600, mxcsr: 0, x87_fcw: 0 }
            }
        }
    }
}

/// The page of one vCPU that starts at `eip`.
pub fn page(shape: &Shape, eip: u32) -> [u8; PAGE_BYTES] {
    let quirks = Quirks::of(shape, eip);
    let mut page = Page([0; PAGE_BYTES]);
    page.segment(offset::ES, 0, 0x93, 0);
    page.segment(offset::CS, 0xf000, quirks.cs_attributes, eip & 0xffff_0000);
    page.segment(offset::SS, 0, quirks.ss_attributes, 0);
    page.segment(offset::DS, 0, 0x93, 0);
    page.segment(offset::FS, 0, 0x93, 0);
    page.segment(offset::GS, 0, 0x93, 0);
    page.segment(offset::GDTR, 0, 0, 0);
    page.segment(offset::IDTR, 0, 0, 0);
    page.segment(offset::LDTR, 0, 0x82, 0);
    page.segment(offset::TR, 0, quirks.tr_attributes, 0);
    page.u64(offset::EFER, 0x1000); // KVM sets EFER.SVME
    page.u64(offset::CR4, 0x40); // KVM sets CR4.MCE
    page.u64(offset::CR0, 0x10);
    page.u64(offset::DR7, 0x400);
    page.u64(offset::DR6, 0xffff_0ff0);
    page.u64(offset::RFLAGS, 0x2);
    page.u64(offset::RIP, u64::from(eip & 0xffff));
    page.u64(offset::G_PAT, quirks.g_pat);
    page.u64(offset::RDX, quirks.rdx);
    page.u64(offset::SEV_FEATURES, shape.guest_features);
    page.u64(offset::XCR0, 0x1);
    page.put(offset::MXCSR, &quirks.mxcsr.to_le_bytes());
    page.put(offset::X87_FCW, &quirks.x87_fcw.to_le_bytes());
    page.0
}

/// Writes at constant offsets, all of which lie inside the page.
struct Page([u8; PAGE_BYTES]);

impl Page {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn segment(&mut self, at: usize, selector: u16, attributes: u16, base: u32) {
        self.put(at, &selector.to_le_bytes());
        self.put(at + 2, &attributes.to_le_bytes());
        self.put(at + 4, &0xffff_u32.to_le_bytes());
        self.u64(at + 8, u64::from(base));
    }
}
