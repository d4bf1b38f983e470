//! Tests of host name endpoints with a simulated clock and simulated lookup results.

use std::io;

use crate::peers::names::*;

const PEER: PeerId = PeerId(2);

fn at(seconds: u64) -> Nanos {
    Nanos(1 << 40).after(Duration::from_secs(seconds))
}

fn address(host: u8) -> SocketAddr {
    ([192, 0, 2, host], 51820).into()
}

fn one_name() -> Names {
    let mut names = Names::default();
    names.set(PEER, "gw.example".into(), 51820, at(0));
    names
}

/// Answers `question` with these hosts, or with an error if there are none.
fn answer(question: Question, hosts: &[u8]) -> LookupResult {
    let addresses = match hosts {
        [] => Err(io::ErrorKind::NotFound.into()),
        hosts => Ok(hosts.iter().map(|host| address(*host)).collect()),
    };
    LookupResult { question, addresses }
}

/// Looks up the name that is due. Returns the address that replaces `current`.
fn look_up(names: &mut Names, now: Nanos, hosts: &[u8], current: Option<u8>) -> Option<SocketAddr> {
    let question = names.take_due(now).expect("the name is due");
    let found = names.answered(answer(question, hosts), current.map(address));
    found.map(|found| found.address)
}

#[test]
fn a_name_is_looked_up_when_it_is_configured_and_then_left_alone() {
    let mut names = one_name();
    let question = names.take_due(at(0)).expect("at once");
    assert_eq!((question.host.as_str(), question.port), ("gw.example", 51820));
    let found = names.answered(answer(question, &[1, 2]), None).expect("an address");
    assert_eq!(found.address, address(1));
    assert_eq!(names.next_due(), None);
}

#[test]
fn a_name_without_address_is_tried_again_ever_more_seldom_but_for_ever() {
    let mut names = one_name();
    let mut moments = Vec::new();
    for _ in 0..10 {
        let due = names.next_due().expect("a retry is due");
        moments.push(due.since(at(0)).as_secs());
        assert_eq!(look_up(&mut names, due, &[], None), None);
    }
    assert_eq!(moments, [0, 1, 3, 7, 15, 23, 31, 39, 47, 55]);
    let due = names.next_due().expect("retries never end");
    assert_eq!(look_up(&mut names, due, &[1], None), Some(address(1)));
    assert_eq!(names.next_due(), None);
}

#[test]
fn a_silent_peer_is_looked_for_and_found_where_its_name_is_now() {
    let mut names = one_name();
    assert_eq!(look_up(&mut names, at(0), &[1], None), Some(address(1)));
    names.initiated(PEER, at(100));
    assert_eq!(names.next_due(), None, "one unanswered initiation is not silence");
    names.initiated(PEER, at(105));
    assert_eq!(look_up(&mut names, at(105), &[7], Some(1)), Some(address(7)));
    names.heard(PEER);
    names.initiated(PEER, at(200));
    assert_eq!(names.next_due(), None, "the peer is no longer silent");
}

#[test]
fn a_peer_that_stays_silent_is_looked_up_ever_more_seldom() {
    let mut names = one_name();
    look_up(&mut names, at(0), &[1], None);
    let mut asked = 0;
    for second in (5..605).step_by(5) {
        names.initiated(PEER, at(second));
        while names.next_due().is_some_and(|due| due <= at(second)) {
            asked += 1;
            assert_eq!(look_up(&mut names, at(second), &[1], Some(1)), None, "the name has no other address");
        }
    }
    assert!((10..16).contains(&asked), "{asked} times in ten minutes");
}

#[test]
fn the_addresses_of_a_silent_peer_are_tried_in_turn_and_one_that_answers_is_kept() {
    let mut names = one_name();
    look_up(&mut names, at(0), &[1, 2, 3], None);
    let mut current = 1;
    for (second, next) in [(100, 2), (200, 3), (300, 1)] {
        names.initiated(PEER, at(second));
        names.initiated(PEER, at(second + 5));
        let found = look_up(&mut names, at(second + 5), &[1, 2, 3], Some(current));
        assert_eq!(found, Some(address(next)));
        current = next;
    }
    names.heard(PEER);
    names.set(PEER, "gw.example".into(), 51820, at(400));
    assert_eq!(look_up(&mut names, at(400), &[3, 1], Some(1)), None, "a peer that answers is not moved");
}

#[test]
fn an_answer_about_a_name_that_was_replaced_or_removed_is_ignored() {
    let mut names = one_name();
    let old = names.take_due(at(0)).expect("at once");
    names.set(PEER, "other.example".into(), 51820, at(0));
    assert_eq!(names.answered(answer(old, &[1]), None), None);
    let new = names.take_due(at(0)).expect("at once");
    names.forget(PEER);
    assert_eq!(names.answered(answer(new, &[1]), None), None);
    assert_eq!(names.next_due(), None);
}

#[test]
fn what_could_not_be_sent_goes_out_as_soon_as_there_is_an_address() {
    let mut names = one_name();
    let message = |byte: u8| ControlMessage::from_iter([byte; 148]);
    names.keep_unsent(PEER, message(1));
    names.keep_unsent(PEER, message(2));
    let question = names.take_due(at(0)).expect("at once");
    let found = names.answered(answer(question, &[1]), None).expect("an address");
    assert_eq!(found.unsent, Some(message(2)), "the latest message is sent");
    names.keep_unsent(PeerId(9), message(3));
    assert_eq!(names.next_due(), None, "a peer without a name has no lookup");
}

#[test]
fn a_changed_network_makes_names_due_but_not_in_storms() {
    let mut names = one_name();
    assert_eq!(look_up(&mut names, at(0), &[1], None), Some(address(1)));
    names.network_changed(&[], at(100));
    assert_eq!(names.next_due(), None, "the route to its address is as before");
    names.network_changed(&[PEER], at(100));
    assert_eq!(look_up(&mut names, at(100), &[2], Some(1)), Some(address(2)));
    names.network_changed(&[PEER], at(101));
    assert_eq!(names.next_due(), Some(at(105)));

    let mut names = one_name();
    for due in [0, 1, 3, 7, 15] {
        assert_eq!(look_up(&mut names, at(due), &[], None), None);
    }
    assert_eq!(names.next_due(), Some(at(23)));
    names.network_changed(&[], at(21));
    assert_eq!(names.next_due(), Some(at(21)), "an unknown name may be known now");
}
