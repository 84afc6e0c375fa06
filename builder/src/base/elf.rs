//! The few facts about ELF files a base build needs: a module's `.modinfo`, and whether a program is static.
//!
//! Source: System V ABI, AMD64 supplement; "ELF-64 Object File Format". Offsets and sizes in bytes, little-endian.

/// An x86-64 ELF file, by its raw bytes.
#[derive(Clone, Copy)]
pub struct Elf<'a>(&'a [u8]);

const EM_X86_64: u16 = 62;
const PT_INTERP: u32 = 3;
const PROGRAM_HEADER_BYTES: usize = 56;
const SECTION_HEADER_BYTES: usize = 64;

impl<'a> Elf<'a> {
    /// `None` if `bytes` do not start like a 64-bit little-endian ELF file for x86-64.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let elf = Self(bytes);
        (bytes.starts_with(b"\x7fELF\x02\x01") && elf.u16(18)? == EM_X86_64).then_some(elf)
    }

    /// True if no program header asks for a dynamic loader; false also where the headers are cut off.
    pub fn is_static(self) -> bool {
        let headers = || {
            let (start, size, count) = (self.offset(32)?, usize::from(self.u16(54)?), usize::from(self.u16(56)?));
            (size >= PROGRAM_HEADER_BYTES && count > 0).then_some(())?;
            (0..count).map(|i| self.u32(start.checked_add(i * size)?)).collect::<Option<Vec<u32>>>()
        };
        headers().is_some_and(|types| !types.contains(&PT_INTERP))
    }

    /// The contents of the section called `name`.
    pub fn section(self, name: &str) -> Option<&'a [u8]> {
        let (start, size, count, names) = (self.offset(40)?, self.u16(58)?, self.u16(60)?, self.u16(62)?);
        (usize::from(size) >= SECTION_HEADER_BYTES).then_some(())?;
        let header = |i: u16| start.checked_add(usize::from(i) * usize::from(size));
        let names = self.contents(header(names)?)?;
        for i in 0..count {
            let header = header(i)?;
            let at = self.u32(header)? as usize;
            let tail = names.get(at..)?;
            if tail.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)) {
                return self.contents(header);
            }
        }
        None
    }

    fn contents(self, header: usize) -> Option<&'a [u8]> {
        let (offset, size) = (self.offset(header.checked_add(24)?)?, self.offset(header.checked_add(32)?)?);
        self.0.get(offset..offset.checked_add(size)?)
    }

    fn bytes<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk::<N>().copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn offset(self, at: usize) -> Option<usize> {
        self.bytes(at).map(u64::from_le_bytes)?.try_into().ok()
    }
}

/// The values of `key` in a module's `.modinfo`: NUL-separated `key=value` texts.
pub fn modinfo<'a>(modinfo: &'a [u8], key: &'a str) -> impl Iterator<Item = &'a str> {
    modinfo
        .split(|b| *b == 0)
        .filter_map(|text| std::str::from_utf8(text).ok())
        .filter_map(move |text| text.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_this_very_test() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::parse(&bytes).unwrap();
        assert!(elf.section(".text").is_some_and(|text| text.len() > 1000));
        assert!(elf.section(".tex").is_none());
        // Test programs are linked dynamically.
        assert!(!elf.is_static());
        assert!(!Elf(&bytes[..64]).is_static());
        assert!(Elf::parse(b"#!/bin/sh").is_none());
    }

    #[test]
    fn modinfo_keys_are_whole_words() {
        let info = b"name=dm_verity\0depends=dm-mod,dm-bufio\0dependsx=no\0softdep=pre: ecb\0";
        assert_eq!(modinfo(info, "depends").collect::<Vec<_>>(), ["dm-mod,dm-bufio"]);
        assert_eq!(modinfo(info, "softdep").collect::<Vec<_>>(), ["pre: ecb"]);
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            for (to, from) in bytes.iter_mut().zip(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0") {
                *to = *from;
            }
            if let Some(elf) = Elf::parse(&bytes) {
                let _ = (elf.is_static(), elf.section(".modinfo"));
            }
        }
    }
}
