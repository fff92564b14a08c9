//! bpf(2), for the commands that aya does not offer or does for its own objects only: pins, links by descriptor, elements
//! of maps of maps. One struct a command, as the kernel lays it out.

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
    LookupElement = 1,
    UpdateElement = 2,
    DeleteElement = 3,
    Pin = 6,
    Get = 7,
    InfoByFd = 15,
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
