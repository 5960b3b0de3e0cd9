//! A real Kamailio in front of phones that know nothing of Path (RFC 3327): it adds one with `add_path()`.

use std::net::SocketAddr;

use crate::calls::Call;
use crate::phlem::Peer;
use crate::phlem::kamailio;
use crate::phone::Phone;
use crate::server::Server;

struct World {
    server: Server,
    proxy: SocketAddr,
    _peer: Peer,
    _folder: tempfile::TempDir,
}

impl World {
    /// `path` as in `[sip]`.
    fn new(path: &str) -> Self {
        let trusted = format!("[\"127.0.0.1/32\"]\npath = \"{path}\"");
        let server = Server::start(|setup| setup.trusted = trusted.leak());
        let folder = tempfile::tempdir().unwrap();
        let (at, ip) = (server.sip().to_string(), server.ip().to_string());
        let (peer, proxy) = kamailio(folder.path(), "path.cfg", &[("@SERVER@", &at), ("@SERVER_IP@", &ip)]);
        Self { server, proxy, _peer: peer, _folder: folder }
    }

    fn phone(&mut self, user: &str) -> Phone {
        let local = SocketAddr::new(self.server.fresh_ip(), 5060);
        Phone::udp(user, local, self.proxy)
    }
}

#[test]
fn phones_that_do_not_know_path_register_and_talk_through_it() {
    let mut world = World::new("always");
    let [mut left, mut right] = ["1001", "1002"].map(|user| world.phone(user));
    for phone in [&mut left, &mut right] {
        let answer = phone.register(600);
        assert_eq!(answer.status(), 200, "{answer:#?}");
    }
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    let via = call.offer.all("Via").next().unwrap();
    assert!(via.contains(&world.proxy.to_string()), "the phone was called past its proxy: {via}");
    call.check_media();
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn where_it_must_be_supported_only_phones_that_say_so_register() {
    let mut world = World::new("supported");
    let mut phone = world.phone("1001");
    let answer = phone.register(600);
    assert_eq!((answer.status(), answer.header("Unsupported")), (420, Some("path")), "{answer:#?}");
    let contact = format!("Contact: {}\r\nExpires: 600\r\n", phone.contact());
    let answer = phone.register_with(&format!("{contact}Supported: path\r\n"));
    assert_eq!(answer.status(), 200, "{answer:#?}");
    assert!(answer.must("Path").contains(&world.proxy.to_string()), "{answer:#?}");
    world.server.registrations(1);
}
