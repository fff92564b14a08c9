//! bpf(2), for the commands that aya does not offer or does for its own objects only: pins, links by descriptor, maps with types,
//! elements of maps of maps. One struct a command, as the kernel lays it out.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2).
#[derive(Clone, Copy, Debug)]
#[repr(i64)]
pub enum Command {
    MapCreate = 0,
    LookupElement = 1,
    UpdateElement = 2,
    DeleteElement = 3,
    Pin = 6,
    Get = 7,
    InfoByFd = 15,
    BtfLoad = 18,
    LookupBatch = 24,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkById = 30,
    LinkDetach = 34,
}

/// Calls bpf(2).
///
/// # Safety
/// `attributes` is laid out as the command wants it, and what it points to outlives the call and is as large as the
/// command takes it to be.
pub unsafe fn bpf<T>(command: Command, attributes: &mut T) -> io::Result<i32> {
    let attributes = (&raw mut *attributes).cast::<u8>();
    // SAFETY: by the contract of this function.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// A pin of an object: to make one, or to open what it stands for.
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Pins an object (map, program, link) under a path in a bpffs.
pub fn pin(object: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let at = path(at)?;
    let mut attributes = Object { path: at.as_ptr() as u64, fd: object.as_raw_fd().cast_unsigned(), flags: 0 };
    // SAFETY: a path that outlives the call.
    unsafe { bpf(Command::Pin, &mut attributes) }.map(drop)
}

/// Opens what is pinned.
pub fn get(at: &Path) -> io::Result<OwnedFd> {
    let at = path(at)?;
    let mut attributes = Object { path: at.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: a path that outlives the call.
    let fd = unsafe { bpf(Command::Get, &mut attributes) }?;
    // SAFETY: the kernel just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The first words of what the kernel tells of an object.
pub fn info(object: BorrowedFd<'_>) -> io::Result<[u32; 16]> {
    #[repr(C)]
    struct Info {
        fd: u32,
        length: u32,
        at: u64,
    }
    let mut words = [0_u32; 16];
    let mut attributes = Info {
        fd: object.as_raw_fd().cast_unsigned(),
        length: size_of_val(&words) as u32,
        at: words.as_mut_ptr() as u64,
    };
    // SAFETY: as many bytes as said, which outlive the call.
    unsafe { bpf(Command::InfoByFd, &mut attributes) }?;
    Ok(words)
}

/// What a map is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// An `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key and of a value.
    pub key: u32,
    pub value: u32,
    /// How many elements it has, or may have.
    pub entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
}

/// Makes a map whose key and value have types, the value a struct: it may stand where one of an object does. Linux 5.15 to 6.1
/// look for a timer in types and compare the answers (`bpf_map_meta_equal`): "none in this struct" is another than "no struct".
pub fn map_create(shape: Shape) -> io::Result<OwnedFd> {
    const NUMBER: u32 = 1;
    const KEY: u32 = 3;
    const VALUE: u32 = 5;
    #[repr(C)]
    #[derive(Default)]
    struct Create {
        shape: [u32; 5],
        inner: u32,
        node: u32,
        name: [u8; 16],
        device: u32,
        types: u32,
        key: u32,
        value: u32,
    }
    let Shape { kind, key, value, entries, flags } = shape;
    let types = btf(&[number(4), number(1), bytes(2, key), bytes(2, value), with(4, value)].concat())?;
    let mut attributes = Create {
        shape: [kind, key, value, entries, flags],
        types: types.as_raw_fd().cast_unsigned(),
        key: if key == 4 { NUMBER } else { KEY },
        value: VALUE,
        ..Create::default()
    };
    // SAFETY: this command reads no pointer from these words.
    let fd = unsafe { bpf(Command::MapCreate, &mut attributes) }?;
    // SAFETY: the kernel just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A type of BTF without a name: a number of so many bytes.
fn number(bytes: u32) -> Vec<u32> {
    vec![0, 1 << 24, bytes, 8 * bytes]
}

/// Likewise: as many of another type, by its place among all (from 1); the first of all counts them.
fn bytes(of: u32, many: u32) -> Vec<u32> {
    vec![0, 3 << 24, 0, of, 1, many]
}

/// Likewise: a struct of so many bytes with one member, which is of another type.
fn with(member: u32, bytes: u32) -> Vec<u32> {
    vec![0, 4 << 24 | 1, bytes, 0, member, 0]
}

/// Gives the kernel types.
fn btf(types: &[u32]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        at: u64,
        log: u64,
        size: u32,
        rest: [u32; 3],
    }
    let length = size_of_val(types) as u32;
    // Magic, version and flags; then how long this head is, where types stand after it and names after those: one, of no letter.
    let words = [0x0001_eb9f, 24, 0, length, length, 1].into_iter().chain(types.iter().copied());
    let mut all: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    all.push(0);
    let mut attributes = Load { at: all.as_ptr() as u64, log: 0, size: all.len() as u32, rest: [0; 3] };
    // SAFETY: as many bytes as said, which outlive the call.
    let fd = unsafe { bpf(Command::BtfLoad, &mut attributes) }?;
    // SAFETY: the kernel just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A command whose arguments are words.
fn words(command: Command, arguments: [u32; 4]) -> io::Result<i32> {
    let mut attributes = arguments;
    // SAFETY: these commands read no pointer from these words.
    unsafe { bpf(command, &mut attributes) }
}

/// Attaches a program by a link: `kind` is an `enum bpf_attach_type`. aya does it too, but lets nobody have the descriptor of
/// a link of XDP, which is what is pinned, asked and updated.
pub fn link_create(program: BorrowedFd<'_>, ifindex: u32, kind: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = [program.as_raw_fd().cast_unsigned(), ifindex, kind, flags, 0, 0, 0, 0];
    // SAFETY: this command reads no pointer.
    let fd = unsafe { bpf(Command::LinkCreate, &mut attributes) }?;
    // SAFETY: the kernel just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program into a link: one hook, one moment.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let [link, program] = [link, program].map(|fd| fd.as_raw_fd().cast_unsigned());
    words(Command::LinkUpdate, [link, program, 0, 0]).map(drop)
}

/// Detaches a link that other processes or pins may hold.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    words(Command::LinkDetach, [link.as_raw_fd().cast_unsigned(), 0, 0, 0]).map(drop)
}

/// Opens a link by its id; needs CAP_SYS_ADMIN.
pub fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    let fd = words(Command::LinkById, [id, 0, 0, 0])?;
    // SAFETY: the kernel just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
