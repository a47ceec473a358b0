use super::*;

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

/// Echo between two nodes; returns what the client got and a transcript of events.
fn echo(seed: u64, faults: Faults, text: &[u8]) -> (Vec<u8>, String) {
    let net = SimNet::new(seed, faults);
    let (mut server, mut client) = (net.node(ip(1)), net.node(ip(2)));
    let listener = server.listen(80);
    server.accept(listener);
    let out = client.connect(SocketAddr::new(ip(1), 80)).unwrap();
    let (mut got, mut log, mut events) = (Vec::new(), String::new(), Vec::new());
    let mut pending: Vec<u8> = Vec::new();
    let mut sending = false;
    let mut peer = Sock::NONE;
    while let Some(at) = net.next_us() {
        net.advance(at);
        server.wait(Duration::ZERO, &mut events).unwrap();
        for event in events.drain(..) {
            log += &format!("{at} s {event:?}\n");
            match event {
                Event::Accepted { sock, .. } => {
                    peer = sock;
                    server.recv(sock, BufGroup::Small);
                }
                Event::Data { buf, .. } => {
                    pending.extend_from_slice(server.data(&buf));
                    server.release(buf);
                }
                Event::Sent { done, .. } => sending &= !done,
                _ => {}
            }
        }
        if !sending && !pending.is_empty() {
            sending = true;
            server.send(peer, Payload::bytes(std::mem::take(&mut pending)));
        }
        client.wait(Duration::ZERO, &mut events).unwrap();
        for event in events.drain(..) {
            log += &format!("{at} c {event:?}\n");
            match event {
                Event::Connected { sock, errno: 0 } => {
                    client.recv(sock, BufGroup::Small);
                    client.send(sock, Payload::bytes(text.to_vec()));
                }
                Event::Data { buf, .. } => {
                    got.extend_from_slice(client.data(&buf));
                    client.release(buf);
                }
                _ => {}
            }
        }
        if got.len() == text.len() {
            break;
        }
    }
    client.close(out);
    assert_eq!((server.buffers_out(), client.buffers_out()), (0, 0));
    (got, log)
}

#[test]
fn bytes_keep_their_order_and_a_seed_repeats_itself() {
    let text: Vec<u8> = (0..300_000u32).map(|i| (i % 253) as u8).collect();
    for seed in 0..20 {
        let (got, log) = echo(seed, Faults::default(), &text);
        assert!(got == text, "seed {seed}");
        assert_eq!(log, echo(seed, Faults::default(), &text).1, "seed {seed}");
    }
}

#[test]
fn a_reset_reaches_both_sides_and_nothing_comes_after_it() {
    let faults = Faults { reset: 1000, ..Faults::default() };
    let (got, log) = echo(1, faults, b"text");
    assert!(got.is_empty());
    assert!(log.contains("s Eof") && log.contains("c Eof") && log.contains("errno: 104"), "{log}");
}

#[test]
fn connects_fail_as_told() {
    let net = SimNet::new(7, Faults { refuse: 1000, ..Faults::default() });
    let (mut server, mut client) = (net.node(ip(1)), net.node(ip(2)));
    let listener = server.listen(80);
    server.accept(listener);
    let refused = client.connect(SocketAddr::new(ip(1), 80)).unwrap();
    net.set_cut(ip(1), ip(2), true);
    net.advance(1_000_000);
    let mut events = Vec::new();
    client.wait(Duration::ZERO, &mut events).unwrap();
    assert!(events.is_empty(), "a cut answers nothing: {events:?}");
    client.close(refused);
    net.set_cut(ip(1), ip(2), false);
    let again = client.connect(SocketAddr::new(ip(1), 80)).unwrap();
    net.advance(2_000_000);
    client.wait(Duration::ZERO, &mut events).unwrap();
    assert!(matches!(events[..], [Event::Connected { sock, errno: 111 }] if sock == again), "{events:?}");
}

#[test]
fn a_reader_that_pauses_stops_its_writer() {
    let net = SimNet::new(3, Faults { window: 1000, ..Faults::default() });
    let (mut server, mut client) = (net.node(ip(1)), net.node(ip(2)));
    let listener = server.listen(80);
    server.accept(listener);
    let out = client.connect(SocketAddr::new(ip(1), 80)).unwrap();
    net.advance(10_000);
    client.send(out, Payload::bytes(vec![7; 5000]));
    net.advance(1_000_000);
    let (mut events, mut went, mut came) = (Vec::new(), 0, 0);
    client.wait(Duration::ZERO, &mut events).unwrap();
    let count = |events: &mut Vec<Event>, went: &mut u32| {
        for event in events.drain(..) {
            if let Event::Sent { bytes, .. } = event {
                *went += bytes;
            }
        }
    };
    count(&mut events, &mut went);
    assert_eq!(went, 1000);
    server.wait(Duration::ZERO, &mut events).unwrap();
    let Some(Event::Accepted { sock, .. }) = events.pop() else { panic!("not accepted") };
    server.recv(sock, BufGroup::Small);
    while let Some(at) = net.next_us() {
        net.advance(at);
        server.wait(Duration::ZERO, &mut events).unwrap();
        for event in events.drain(..) {
            if let Event::Data { buf, .. } = event {
                came += buf.len();
                server.release(buf);
            }
        }
        client.wait(Duration::ZERO, &mut events).unwrap();
        count(&mut events, &mut went);
    }
    assert_eq!((went, came), (5000, 5000));
}

#[test]
fn a_killed_node_resets_its_connections_and_refuses_new_ones() {
    let net = SimNet::new(5, Faults::default());
    let (mut server, mut client) = (net.node(ip(1)), net.node(ip(2)));
    let listener = server.listen(80);
    server.accept(listener);
    let to = SocketAddr::new(ip(1), 80);
    let first = client.connect(to).unwrap();
    net.advance(10_000);
    client.recv(first, BufGroup::Small);
    net.kill(&server);
    let second = client.connect(to).unwrap();
    net.advance(1_000_000);
    let mut events = Vec::new();
    client.wait(Duration::ZERO, &mut events).unwrap();
    let has = |want: &str| events.iter().any(|e| format!("{e:?}").contains(want));
    assert!(has("Eof") && has("errno: 104") && has("errno: 111"), "{events:?}");
    assert_ne!(first, second);
}
