use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

/// Runs the ring until `done` says so; every wait is bounded, and so is their number.
fn run(ring: &mut Uring, mut on_event: impl FnMut(&mut Uring, Event) -> bool) {
    let mut events = Vec::new();
    for _ in 0..10_000 {
        ring.wait(Duration::from_secs(10), &mut events).unwrap();
        for event in events.drain(..) {
            if on_event(ring, event) {
                return;
            }
        }
    }
    panic!("the ring did not get there");
}

fn listener(ring: &mut Uring) -> (Sock, SocketAddr) {
    let fd = sys::listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    let addr = sys::local(fd.as_fd()).unwrap();
    let sock = ring.adopt(fd).unwrap();
    ring.accept(sock);
    (sock, addr)
}

#[test]
fn echoes_over_many_connections_and_reuses_slots() {
    let mut ring = Uring::new(&Options { sockets: 8, ..Options::default() }).unwrap();
    let (_, addr) = listener(&mut ring);
    let client = std::thread::spawn(move || {
        for i in 0..50u32 {
            let mut stream = TcpStream::connect(addr).unwrap();
            let text = vec![i as u8; 10_000];
            stream.write_all(&text).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            assert_eq!(back, text);
        }
    });
    let (mut seen, mut out, mut closed) = (0, Vec::new(), 0);
    run(&mut ring, |ring, event| {
        match event {
            Event::Accepted { sock, .. } => ring.recv(sock, BufGroup::Small),
            Event::Data { buf, .. } => {
                out.extend_from_slice(ring.data(&buf));
                seen += buf.len();
                ring.release(buf);
            }
            Event::Eof { sock, errno: 0 } => ring.send(sock, Payload::bytes(std::mem::take(&mut out))),
            Event::Sent { sock, done: true, errno: 0, .. } => {
                ring.close(sock);
                closed += 1;
            }
            _ => {}
        }
        closed == 50
    });
    // The last close is handed over by one more wait.
    ring.wait(Duration::ZERO, &mut Vec::new()).unwrap();
    client.join().unwrap();
    assert_eq!(seen, 500_000);
    assert!(ring.slots.len() <= 8, "slots were not used again");
    assert_eq!(ring.small.out, 0, "buffers were lost");
}

#[test]
fn a_paused_receive_stops_and_goes_on() {
    let mut ring = Uring::new(&Options::default()).unwrap();
    let (_, addr) = listener(&mut ring);
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(b"one").unwrap();
    let (mut text, mut idle) = (Vec::new(), false);
    run(&mut ring, |ring, event| {
        match event {
            Event::Accepted { sock, .. } => ring.recv(sock, BufGroup::Small),
            Event::Data { sock, buf } => {
                text.extend_from_slice(ring.data(&buf));
                ring.release(buf);
                if !idle {
                    ring.pause_recv(sock);
                }
            }
            Event::RecvIdle { sock, starved } => {
                assert!(!starved);
                idle = true;
                stream.write_all(b" two").unwrap();
                ring.recv(sock, BufGroup::Large);
            }
            _ => {}
        }
        text == b"one two"
    });
    assert!(idle);
}

#[test]
fn connect_reports_success_and_refusal() {
    let mut ring = Uring::new(&Options::default()).unwrap();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let shut = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = shut.local_addr().unwrap();
    drop(shut);
    let good = ring.connect(open.local_addr().unwrap()).unwrap();
    let bad = ring.connect(refused).unwrap();
    let mut ended = Vec::new();
    run(&mut ring, |_, event| {
        if let Event::Connected { sock, errno } = event {
            ended.push((sock, errno));
        }
        ended.len() == 2
    });
    ended.sort_unstable();
    assert_eq!(ended, [(good, 0), (bad, libc::ECONNREFUSED)]);
    assert_eq!(ring.peer(good), open.local_addr().ok());
}

#[test]
fn a_stopped_listener_accepts_no_more_and_a_handle_of_the_past_does_nothing() {
    let mut ring = Uring::new(&Options::default()).unwrap();
    let (listener, addr) = listener(&mut ring);
    let _stream = TcpStream::connect(addr).unwrap();
    let mut accepted = None;
    run(&mut ring, |ring, event| match event {
        Event::Accepted { sock, .. } => {
            accepted = Some(sock);
            ring.stop_accept(listener);
            false
        }
        Event::AcceptEnded { errno, .. } => {
            assert_eq!(errno, libc::ECANCELED);
            true
        }
        _ => false,
    });
    let sock = accepted.unwrap();
    ring.close(sock);
    ring.close(sock);
    ring.send(sock, Payload::bytes(b"late".to_vec()));
    assert_eq!(ring.peer(sock), None);
}

#[test]
fn a_fin_goes_before_the_descriptor_can_be_another_connections() {
    let mut ring = Uring::new(&Options::default()).unwrap();
    let (_, addr) = listener(&mut ring);
    let mut stream = TcpStream::connect(addr).unwrap();
    run(&mut ring, |ring, event| {
        let Event::Accepted { sock, .. } = event else { return false };
        ring.shutdown_write(sock);
        true
    });
    // Nothing was handed to the kernel since: a FIN that was only queued would not come.
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_wake_from_another_thread_ends_the_wait() {
    let mut ring = Uring::new(&Options::default()).unwrap();
    let waker = ring.waker();
    let thread = std::thread::spawn(move || waker.wake());
    run(&mut ring, |_, event| matches!(event, Event::Woken));
    thread.join().unwrap();
}

#[test]
fn a_large_payload_survives_a_slow_reader() {
    let mut ring = Uring::new(&Options::default()).unwrap();
    let (_, addr) = listener(&mut ring);
    let body: Vec<u8> = (0..8u32 << 20).map(|i| (i % 251) as u8).collect();
    let expected = body.clone();
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == expected, "bytes differ");
    });
    let owner: Arc<dyn crate::StableBytes> = Arc::new(body.into_boxed_slice());
    let mut sent = 0;
    run(&mut ring, |ring, event| {
        match event {
            Event::Accepted { sock, .. } => {
                let parts = (0..16).map(|i| crate::Slice::new(owner.clone(), i << 19, 1 << 19)).collect();
                ring.send(sock, Payload { head: Vec::new(), body: parts });
            }
            Event::Sent { sock, bytes, done, errno } => {
                assert_eq!(errno, 0);
                sent += bytes as usize;
                if done {
                    ring.close(sock);
                    return true;
                }
            }
            _ => {}
        }
        false
    });
    ring.wait(Duration::ZERO, &mut Vec::new()).unwrap();
    client.join().unwrap();
    assert_eq!(sent, 8 << 20);
}
