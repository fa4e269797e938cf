//! Law 8, no-silent-trust: the kernel is a file from anywhere.

use super::*;
use proptest::prelude::*;
use zerocopy::FromZeros;

const MIB: u64 = 1 << 20;
const PREFERRED: u64 = 16 * MIB;
const SECTS: u8 = 39;

/// A header like that of a distribution's kernel.
fn header() -> SetupHeader {
    let mut header = SetupHeader::new_zeroed();
    header.setup_sects = SECTS;
    header.syssize = 0xc_0000.into();
    header.boot_flag = BOOT_FLAG.into();
    header.jump = [0xeb, 0x6a];
    header.header = HEADER_MAGIC.into();
    header.version = 0x020f.into();
    header.loadflags = LOADED_HIGH;
    header.initrd_addr_max = 0x7fff_ffff.into();
    header.kernel_alignment = 0x20_0000.into();
    header.relocatable_kernel = 1;
    header.xloadflags = (XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G).into();
    header.cmdline_size = 2047.into();
    header.pref_address = PREFERRED.into();
    header.init_size = 0x300_0000.into();
    header
}

fn sectors(header: &SetupHeader) -> Vec<u8> {
    let mut setup = vec![0xcc; (usize::from(SECTS) + 1) * 512];
    setup[SETUP_HEADER_OFFSET..][..size_of::<SetupHeader>()].copy_from_slice(header.as_bytes());
    setup
}

fn place() -> Placement {
    Placement {
        payload: GpaRange::new(PREFERRED, 12 * MIB).unwrap(),
        initrd: GpaRange::new(400 * MIB, 30 * MIB),
        cmdline_len: 100,
    }
}

fn ram() -> Ram {
    Ram { low: GpaRange::between(0, 512 * MIB), high: GpaRange::between(1 << 32, 5 << 30) }
}

fn check(change: impl FnOnce(&mut SetupHeader, &mut Placement)) -> Result<u64, KernelError> {
    let (mut header, mut place) = (header(), place());
    change(&mut header, &mut place);
    SetupHeader::parse(&sectors(&header))?.check_placement(&place, &ram())
}

#[test]
fn a_distribution_kernel_is_entered_0x200_after_its_start() {
    assert_eq!(check(|_, _| ()), Ok(PREFERRED + 0x200));
    assert_eq!(check(|_, place| place.initrd = None), Ok(PREFERRED + 0x200));
    // Relocatable: elsewhere, and above 4 GiB where it says it can.
    let at = |gpa| check(|_, place| place.payload = GpaRange::new(gpa, 12 * MIB).unwrap());
    assert_eq!(at(64 * MIB), Ok(64 * MIB + 0x200));
    assert_eq!(at(1 << 32), Ok((1 << 32) + 0x200));
}

/// Kernels of 64 MiB and more: nothing in here is narrower than the header's fields.
#[test]
fn a_kernel_beyond_64_mib_is_entered() {
    let big = check(|header, place| {
        header.syssize = (100u32 << 20 >> 4).into();
        header.init_size = (250u32 << 20).into();
        place.payload = GpaRange::new(PREFERRED, 100 * MIB).unwrap();
    });
    assert_eq!(big, Ok(PREFERRED + 0x200));
}

#[test]
fn zero_setup_sectors_mean_four() {
    let mut header = header();
    header.setup_sects = 0;
    let mut setup = sectors(&header);
    setup.truncate(5 * 512);
    assert_eq!(SetupHeader::parse(&setup).unwrap().setup_sects, 4);
}

/// The header says where it ends; what follows is code, not fields.
#[test]
fn fields_beyond_the_header_are_not_believed() {
    let mut short = header();
    // Up to and including pref_address.
    short.jump[1] = 0x58 + 8 - 2;
    let parsed = SetupHeader::parse(&sectors(&short)).unwrap();
    assert_eq!(parsed.pref_address.get(), PREFERRED);
    assert_eq!(parsed.init_size.get(), 0);
    let error = parsed.check_placement(&place(), &ram()).unwrap_err();
    assert!(matches!(error, KernelError::Field { field: "init_size", .. }), "{error}");
}

#[test]
fn no_silent_trust_kernel_files() {
    assert_eq!(SetupHeader::parse(&[]).unwrap_err(), KernelError::Short(0));
    assert_eq!(SetupHeader::parse(&[0; 0x220]).unwrap_err(), KernelError::Short(0x220));
    let error = SetupHeader::parse(&[0; 0x1400]).unwrap_err();
    assert_eq!(error, KernelError::NotBzImage { field: "boot_flag", value: 0 });
    let error = check(|header, _| header.header = 1.into()).unwrap_err();
    assert_eq!(error, KernelError::NotBzImage { field: "header", value: 1 });
    assert_eq!(check(|header, _| header.version = 0x20b.into()), Err(KernelError::Version(0x20b)));
    type Change = fn(&mut SetupHeader, &mut Placement);
    let cases: &[(Change, &str)] = &[
        (|h, _| h.setup_sects = 38, "setup_sects"),
        (|h, _| h.loadflags = 0, "loadflags"),
        (|h, _| h.xloadflags = 2.into(), "xloadflags"),
        (|h, _| h.cmdline_size = 99.into(), "cmdline_size"),
        // Truncated: one paragraph more than was staged.
        (|h, _| h.syssize = 0xc_0001.into(), "syssize"),
        (|h, p| (h.syssize, p.payload) = (0.into(), GpaRange::new(PREFERRED, 0x200).unwrap()), "syssize"),
        (|h, _| h.kernel_alignment = 0.into(), "kernel_alignment"),
        (|h, _| h.kernel_alignment = 3.into(), "kernel_alignment"),
        (|_, p| p.payload = GpaRange::new(PREFERRED + 0x1000, 12 * MIB).unwrap(), "kernel_alignment"),
        (|h, _| (h.relocatable_kernel, h.pref_address) = (0, (32 * MIB).into()), "pref_address"),
        (|h, _| h.init_size = 0.into(), "init_size"),
        (|h, _| h.pref_address = u64::MAX.into(), "init_size"),
    ];
    for (change, name) in cases {
        let error = check(change).unwrap_err();
        assert!(matches!(error, KernelError::Field { field, .. } if field == *name), "{name}: {error}");
    }
}

#[test]
fn the_room_to_decompress_is_checked_as_well() {
    let why = |result: Result<u64, KernelError>| match result.unwrap_err() {
        KernelError::Room { why, .. } => why,
        other => panic!("{other}"),
    };
    assert_eq!(why(check(|header, _| header.init_size = (500 << 20).into())), "not RAM");
    assert_eq!(why(check(|header, _| header.init_size = (390 << 20).into())), "taken by the initrd");
    assert_eq!(why(check(|header, _| header.pref_address = (2048 * MIB).into())), "not RAM");
    let only_low = |header: &mut SetupHeader, place: &mut Placement| {
        header.xloadflags = XLF_KERNEL_64.into();
        place.payload = GpaRange::new(1 << 32, 12 * MIB).unwrap();
    };
    assert_eq!(why(check(only_low)), "above 4 GiB, which this kernel cannot use");
}

#[test]
fn an_initrd_the_kernel_cannot_reach_is_refused() {
    let limit = check(|header, place| {
        header.xloadflags = XLF_KERNEL_64.into();
        header.initrd_addr_max = (0x19ff_ffff_u32).into();
        place.initrd = GpaRange::new(400 * MIB, 30 * MIB);
    });
    assert!(matches!(limit, Err(KernelError::Initrd { limit: 0x19ff_ffff, .. })), "{limit:?}");
    // One that can be loaded above 4 GiB reaches everything.
    let above = check(|_, place| place.initrd = GpaRange::new(1 << 32, 30 * MIB));
    assert_eq!(above, Ok(PREFERRED + 0x200));
}

proptest! {
    /// Any header and any placement: an error, or an entry inside the payload and a kernel that keeps to RAM.
    #[test]
    fn any_header_is_an_answer_or_an_error(
        changes in proptest::collection::vec((0usize..size_of::<SetupHeader>(), any::<u8>()), 0..6),
        load in 4u64..0x15_0000,
        len in 1u64..64 * MIB,
        initrd in proptest::option::of((0x400u64..0x13_0000, 1u64..64 * MIB)),
    ) {
        let mut header = header();
        for (index, value) in changes {
            header.as_mut_bytes()[index] = value;
        }
        let place = Placement {
            payload: GpaRange::new(load << 12, len).unwrap(),
            initrd: initrd.and_then(|(page, len)| GpaRange::new(page << 12, len)),
            cmdline_len: 10,
        };
        if let Ok(parsed) = SetupHeader::parse(&sectors(&header))
            && let Ok(entry) = parsed.check_placement(&place, &ram())
        {
            prop_assert!(place.payload.contains(GpaRange::new(entry, 1).unwrap()));
            let room = parsed.room(place.payload.start()).unwrap();
            prop_assert!(ram().contains(room));
            prop_assert!(place.initrd.is_none_or(|initrd| !initrd.overlaps(room)));
        }
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(setup in proptest::collection::vec(any::<u8>(), 0..2048)) {
        if let Ok(header) = SetupHeader::parse(&setup) {
            let _ = header.check_placement(&place(), &ram());
        }
    }
}
