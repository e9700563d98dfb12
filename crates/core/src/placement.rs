//! Where a message is stored when others have its time, and how a sender's
//! retry is recognised.
//!
//! The rule: the key asked for if it is free, else the first free key above
//! it, in steps of a microsecond. A free key is never passed over. Only so do
//! a message and its retry meet at the same key, whatever runs between them.
//!
//! This is the decision alone, without its calls: it says which call comes
//! next and is told the answer. So the test below can run several of them
//! through every order of their calls.

use crate::SortKey;

/// How many puts in a row may be lost before the rows are read again.
const MAX_LOSSES: u8 = 8;

/// The state of storing one message.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Placement {
    asked: SortKey,
    next: Next,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Next {
    /// Nothing is known yet: the ordinary case is this one put.
    First,
    /// The rows from the key asked for up to this one are others' and leave
    /// no gap.
    Read(SortKey),
    /// This key was free, or follows keys lost since.
    Put {
        key: SortKey,
        losses: u8,
    },
    Done,
}

/// The call to make next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Put the message under this key on the condition that it is free.
    Put(SortKey),
    /// Read the rows between these keys, both included, in ascending order,
    /// consistently and with the expired ones. One page is enough.
    Read(SortKey, SortKey),
    /// The message is stored, by this sender or by an earlier try.
    Done,
}

impl Placement {
    /// Starts at the key asked for.
    pub fn new(asked: SortKey) -> Self {
        Self {
            asked,
            next: Next::First,
        }
    }

    /// The call to make next.
    pub fn step(&self) -> Step {
        match self.next {
            Next::First => Step::Put(self.asked),
            Next::Read(from) => Step::Read(from, from.end_of_second()),
            Next::Put { key, .. } => Step::Put(key),
            Next::Done => Step::Done,
        }
    }

    /// The put was made.
    pub fn stored(&mut self) {
        self.next = Next::Done;
    }

    /// A row was in the way of the put. `is_same`: it has the same text and
    /// level and has not expired, so this is a retry.
    pub fn lost(&mut self, is_same: bool) {
        self.next = match self.next {
            _ if is_same => Next::Done,
            Next::Put { key, losses } if losses + 1 < MAX_LOSSES => Next::Put {
                key: key.next(),
                losses: losses + 1,
            },
            _ => Next::Read(self.asked),
        };
    }

    /// One page of the rows that [`Step::Read`] asked for: their keys, and
    /// whether each is the same message as in [`Self::lost`]. `more`: the
    /// page was not the last.
    pub fn read(&mut self, rows: impl IntoIterator<Item = (SortKey, bool)>, more: bool) {
        let Next::Read(from) = self.next else { return };
        let mut free = from;
        for (key, is_same) in rows {
            if key != free {
                self.next = Next::Put {
                    key: free,
                    losses: 0,
                };
                return;
            }
            if is_same {
                self.next = Next::Done;
                return;
            }
            free = free.next();
        }
        // A second that is full to its end goes on in the next one.
        self.next = if more || free > from.end_of_second() {
            Next::Read(free)
        } else {
            Next::Put {
                key: free,
                losses: 0,
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    /// What is stored under a key: a text, and whether it has expired.
    type Rows = BTreeMap<SortKey, (&'static str, bool)>;

    #[derive(Clone, PartialEq, Eq, Hash, Debug)]
    struct Sender {
        text: &'static str,
        placement: Placement,
        /// How often the answer to a put may still be lost on the way.
        losable_answers: u8,
    }

    fn sender(text: &'static str, asked: &str) -> Sender {
        Sender {
            text,
            placement: Placement::new(key(asked)),
            losable_answers: 1,
        }
    }

    fn key(seconds: &str) -> SortKey {
        SortKey::from_seconds(seconds).unwrap()
    }

    /// Runs senders through every order of their calls, and through every
    /// choice of an answer that is lost, which the SDK answers with the same
    /// put again. Pages hold two rows. Returns the number of states seen.
    fn explore(start: &Rows, senders: &[Sender], check: &dyn Fn(&Rows)) -> usize {
        let mut seen = HashSet::new();
        let mut open = vec![(start.clone(), senders.to_vec())];
        while let Some(state) = open.pop() {
            if !seen.insert(state.clone()) {
                continue;
            }
            assert!(seen.len() < 2_000_000, "the placement does not end");
            let (rows, senders) = state;
            let mut is_end = true;
            for (index, sender) in senders.iter().enumerate() {
                let mut go = |rows: &Rows, sender: Sender| {
                    let mut senders = senders.clone();
                    senders[index] = sender;
                    open.push((rows.clone(), senders));
                };
                match sender.placement.step() {
                    Step::Done => continue,
                    Step::Put(key) => match rows.get(&key) {
                        Some((text, expired)) => {
                            let mut sender = sender.clone();
                            sender.placement.lost(*text == sender.text && !expired);
                            go(&rows, sender);
                        }
                        None => {
                            let mut rows = rows.clone();
                            rows.insert(key, (sender.text, false));
                            let mut answered = sender.clone();
                            answered.placement.stored();
                            go(&rows, answered);
                            if sender.losable_answers > 0 {
                                let mut unanswered = sender.clone();
                                unanswered.losable_answers -= 1;
                                go(&rows, unanswered);
                            }
                        }
                    },
                    Step::Read(from, to) => {
                        let mut range = rows.range(from..=to);
                        let page: Vec<_> = range
                            .by_ref()
                            .take(2)
                            .map(|(key, (text, expired))| (*key, *text == sender.text && !expired))
                            .collect();
                        let mut sender = sender.clone();
                        sender.placement.read(page, range.next().is_some());
                        go(&rows, sender);
                    }
                }
                is_end = false;
            }
            if is_end {
                check(&rows);
            }
        }
        seen.len()
    }

    /// Each text is stored once (not counting expired rows), nothing that was
    /// there is gone, and the new rows leave no gap above the key asked for.
    fn each_once(start: &Rows, texts: &[&'static str]) -> impl Fn(&Rows) {
        let start = start.clone();
        let texts = texts.to_vec();
        move |rows: &Rows| {
            for text in &texts {
                let count = rows
                    .values()
                    .filter(|(stored, expired)| stored == text && !expired)
                    .count();
                assert_eq!(count, 1, "{text} in {rows:?}");
            }
            for (key, row) in &start {
                assert_eq!(rows.get(key), Some(row), "{key} was overwritten");
            }
            assert_eq!(
                rows.len(),
                start.len()
                    + texts
                        .iter()
                        .filter(|text| !start.values().any(|row| row == &(**text, false)))
                        .count()
            );
        }
    }

    #[test]
    fn two_senders_a_retry_and_a_fractional_message_are_each_stored_once_in_every_order() {
        let start = Rows::new();
        let senders = [
            sender("a", "7"),
            sender("b", "7"),
            sender("a", "7"),
            sender("f", "7.000001"),
        ];
        let states = explore(&start, &senders, &each_once(&start, &["a", "b", "f"]));
        assert!(states > 1000, "only {states} states were seen");
    }

    #[test]
    fn three_senders_around_rows_already_there_pass_over_no_free_key() {
        let start = Rows::from([
            (key("7"), ("x", false)),
            (key("7.000001"), ("a", true)),
            (key("7.000003"), ("y", false)),
            (key("7.000005"), ("z", false)),
        ]);
        let senders = [sender("a", "7"), sender("b", "7"), sender("a", "7")];
        let once = each_once(&start, &["a", "b"]);
        explore(&start, &senders, &|rows| {
            once(rows);
            assert!(rows.contains_key(&key("7.000002")) && rows.contains_key(&key("7.000004")));
        });
    }

    #[test]
    fn a_retry_finds_its_message_behind_a_full_page_and_an_expired_twin_is_not_it() {
        let start = Rows::from([
            (key("7"), ("a", true)),
            (key("7.000001"), ("x", false)),
            (key("7.000002"), ("y", false)),
            (key("7.000003"), ("a", false)),
        ]);
        explore(
            &start,
            &[sender("a", "7"), sender("b", "7")],
            &each_once(&start, &["a", "b"]),
        );
    }

    #[test]
    fn a_second_that_is_full_goes_on_in_the_next() {
        let start = Rows::from([(key("7.999999"), ("x", false)), (key("8"), ("y", false))]);
        let once = each_once(&start, &["a", "b"]);
        explore(
            &start,
            &[
                sender("a", "7.999999"),
                sender("b", "7.999999"),
                sender("a", "7.999999"),
            ],
            &|rows| {
                once(rows);
                assert!(rows.contains_key(&key("8.000001")) && rows.contains_key(&key("8.000002")));
            },
        );
    }

    #[test]
    fn after_eight_losses_the_rows_are_read_again() {
        let mut placement = Placement::new(key("7"));
        placement.lost(false);
        placement.read([(key("7"), false)], false);
        for loss in 1..=8 {
            assert_eq!(placement.step(), Step::Put(key(&format!("7.00000{loss}"))));
            placement.lost(false);
        }
        assert_eq!(placement.step(), Step::Read(key("7"), key("7.999999")));
    }
}
