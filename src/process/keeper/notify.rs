//! What the service manager is told (sd_notify): one datagram to the socket that `$NOTIFY_SOCKET` names.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;

/// `socket` is the variable's value; a name that begins with `@` is abstract.
pub(super) fn send(socket: Option<&OsString>, state: &str) {
    let Some(name) = socket else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    };
    let (Ok(address), Ok(datagram)) = (address, UnixDatagram::unbound()) else { return };
    let _ = datagram.set_nonblocking(true);
    let _ = datagram.send_to_addr(state.as_bytes(), &address);
}
