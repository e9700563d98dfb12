//! Where a message is stored when others have its time, and how a sender's
//! retry is recognised.
//!
//! The rule: the key asked for if it is free, else the first free key above it,
//! in steps of a microsecond; a row on the way that holds the same message
//! shows a retry. No free key is passed over. That is what makes a message and
//! its retry land on the same key, whatever else is stored meanwhile.
//!
//! One page of the second's rows is read, from the end of the second downwards.
//! If more than half a page of rows lie above the key, the search starts at the
//! lowest row of the latest half page. The rest of the page shows retries: a
//! message stays on the page at least until half a page of rows have come after
//! it. If that many rows came within the last minute, a second, larger page is
//! read to find a retry.
//!
//! The cost of this bound: in such a second a free key further below may be
//! passed over. A retry is stored a second time if more rows came since than
//! are read, or if it runs beside the first attempt while another row moves the
//! start of the search past a gap.
//!
//! This is only the decision logic, without I/O: it says which call comes next
//! and takes the result. So the tests below can run several placements through
//! every order of their calls.

use crate::SortKey;

/// How many puts in a row may find their key taken before the rows are read
/// again.
const MAX_LOSSES: u8 = 8;

/// The size of the second page, in first pages. With ten, 16 senders at once
/// hold each other up for more than 3 s.
const SECOND_PAGE: usize = 3;

/// The state of storing one message.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Placement {
    asked: SortKey,
    page: usize,
    /// Whether the second page may still be read: once. Rows that come later
    /// are on the first page when it is read again.
    may_search: bool,
    next: Next,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Next {
    /// The first put, usually the only call.
    First,
    /// The key asked for is taken, or the second before this key is full.
    Read(SortKey),
    /// The message is not on the first page: it may lie below.
    Search {
        from: SortKey,
        to: SortKey,
        free: SortKey,
    },
    /// This key was free, or follows keys taken since.
    Put {
        key: SortKey,
        losses: u8,
    },
    Done,
}

/// The call to make next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Put the message under this key if the key is free.
    Put(SortKey),
    /// Read the rows between two keys, both included: one page, in descending
    /// order, consistently, expired rows included.
    Read {
        /// The lower key.
        from: SortKey,
        /// The higher key.
        to: SortKey,
        /// The most rows.
        limit: usize,
    },
    /// Look for the same message, as in [`Row::is_same`], in one such page.
    Search {
        /// The lower key.
        from: SortKey,
        /// The higher key.
        to: SortKey,
        /// The most rows.
        limit: usize,
    },
    /// The message is stored, by this sender or by an earlier try.
    Done,
}

/// What the placement must know about a row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where it is stored.
    pub key: SortKey,
    /// It has the same text and level and has not expired.
    pub is_same: bool,
    /// It arrived within the last minute, when retries are expected.
    pub is_recent: bool,
}

impl Placement {
    /// Starts at the key asked for; `page` is the most rows of a first page.
    pub fn new(asked: SortKey, page: usize) -> Self {
        Self {
            asked,
            page,
            may_search: true,
            next: Next::First,
        }
    }

    /// The call to make next.
    pub fn step(&self) -> Step {
        match self.next {
            Next::First => Step::Put(self.asked),
            Next::Read(from) => Step::Read {
                from,
                to: from.end_of_second(),
                limit: self.page,
            },
            Next::Search { from, to, .. } => Step::Search {
                from,
                to,
                limit: self.page.saturating_mul(SECOND_PAGE),
            },
            Next::Put { key, .. } => Step::Put(key),
            Next::Done => Step::Done,
        }
    }

    /// The put succeeded.
    pub fn stored(&mut self) {
        self.next = Next::Done;
    }

    /// The key was taken. `is_same`: by the same message, as in [`Row`], so
    /// this is a retry.
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

    /// The page that [`Step::Read`] asked for. `more`: rows are left below it.
    pub fn read(&mut self, rows: &[Row], more: bool) {
        if let Next::Read(from) = self.next {
            self.next = self.first_page(from, rows, more);
        }
    }

    /// Whether [`Step::Search`] found the message.
    pub fn searched(&mut self, is_there: bool) {
        if let Next::Search { from, free, .. } = self.next {
            self.next = if is_there {
                Next::Done
            } else {
                put(from, free)
            };
        }
    }

    fn first_page(&mut self, from: SortKey, rows: &[Row], more: bool) -> Next {
        // DynamoDB may end a page earlier, at 1 MB.
        let page = if more { rows.len() } else { self.page };
        let latest = rows.iter().take(page.div_ceil(2));
        let is_all = !more && latest.len() == rows.len();
        let mut free = match latest.clone().next_back() {
            Some(lowest) if !is_all => lowest.key,
            _ => from,
        };
        for row in latest.rev() {
            if row.key != free {
                break;
            }
            free = free.next();
        }
        if rows.iter().any(|row| row.is_same && row.key < free) {
            return Next::Done;
        }
        // A message of the last minute that is not on this page has had more
        // than half a page of rows stored since.
        let recent = rows.iter().filter(|row| row.is_recent).count();
        let below = rows
            .last()
            .and_then(|lowest| lowest.key.previous())
            .filter(|below| *below >= from);
        match below {
            Some(to) if more && self.may_search && recent > page / 2 => {
                self.may_search = false;
                Next::Search { from, to, free }
            }
            _ => put(from, free),
        }
    }
}

/// If the second is full to its end, the search goes on in the next.
fn put(from: SortKey, free: SortKey) -> Next {
    if free > from.end_of_second() {
        Next::Read(free)
    } else {
        Next::Put {
            key: free,
            losses: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    /// What is stored under a key: a text, and how old it is.
    type Rows = BTreeMap<SortKey, (&'static str, Age)>;

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Age {
        Recent,
        Old,
        Expired,
    }
    use Age::{Expired, Old, Recent};

    /// A page whose half holds more than all rows of a test.
    const LARGE: usize = 16;

    #[derive(Clone, PartialEq, Eq, Hash, Debug)]
    struct Sender {
        text: &'static str,
        placement: Placement,
        /// How many more responses to puts may be lost.
        losable_answers: u8,
    }

    fn sender(text: &'static str, asked: &str, page: usize) -> Sender {
        Sender {
            text,
            placement: Placement::new(key(asked), page),
            losable_answers: 1,
        }
    }

    fn key(seconds: &str) -> SortKey {
        SortKey::from_seconds(seconds).unwrap()
    }

    /// `count` rows of one age without a gap.
    fn run(first: &str, count: usize, age: Age) -> Rows {
        std::iter::successors(Some(key(first)), |key| Some(key.next()))
            .map(|key| (key, ("other", age)))
            .take(count)
            .collect()
    }

    /// What a query returns.
    fn page(rows: &Rows, text: &str, step: Step) -> (Vec<Row>, bool) {
        let (Step::Read { from, to, limit } | Step::Search { from, to, limit }) = step else {
            panic!("{step:?} is not a read");
        };
        // DynamoDB refuses reversed bounds.
        assert!(from <= to);
        let mut range = rows.range(from..=to).rev();
        let page = range.by_ref().take(limit).map(|(key, (stored, age))| Row {
            key: *key,
            is_same: *stored == text && *age != Expired,
            is_recent: *age == Recent,
        });
        (page.collect(), range.next().is_some())
    }

    /// Answers a read or a search.
    fn answer(placement: &mut Placement, rows: &Rows, text: &str) {
        let step = placement.step();
        let (page, more) = page(rows, text, step);
        if matches!(step, Step::Search { .. }) {
            placement.searched(page.iter().any(|row| row.is_same));
        } else {
            placement.read(&page, more);
        }
    }

    /// Runs one sender alone; returns how many calls it took.
    fn store(rows: &mut Rows, text: &'static str, asked: &str, page_size: usize) -> usize {
        let mut placement = Placement::new(key(asked), page_size);
        for calls in 0..20 {
            match placement.step() {
                Step::Done => return calls,
                Step::Put(key) => match rows.get(&key) {
                    Some((stored, age)) => placement.lost(*stored == text && *age != Expired),
                    None => {
                        rows.insert(key, (text, Recent));
                        placement.stored();
                    }
                },
                Step::Read { .. } | Step::Search { .. } => answer(&mut placement, rows, text),
            }
        }
        panic!("the placement does not end");
    }

    /// Runs senders through every order of their calls and every choice of lost
    /// responses, after which the SDK repeats the put. Returns the number of
    /// states seen.
    fn explore(start: &Rows, senders: &[Sender], check: &dyn Fn(&Rows)) -> usize {
        let mut seen = HashSet::new();
        let mut open = vec![(start.clone(), senders.to_vec())];
        let mut ends = 0;
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
                        Some((text, age)) => {
                            let mut sender = sender.clone();
                            let is_same = *text == sender.text && *age != Expired;
                            sender.placement.lost(is_same);
                            go(&rows, sender);
                        }
                        None => {
                            let mut rows = rows.clone();
                            rows.insert(key, (sender.text, Recent));
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
                    Step::Read { .. } | Step::Search { .. } => {
                        let mut sender = sender.clone();
                        answer(&mut sender.placement, &rows, sender.text);
                        go(&rows, sender);
                    }
                }
                is_end = false;
            }
            if is_end {
                check(&rows);
                ends += 1;
            }
        }
        assert!(ends > 0, "the placement goes round in circles");
        seen.len()
    }

    /// Each text is stored once (not counting expired rows), no earlier row is
    /// gone, and nothing else was added.
    fn each_once(start: &Rows, texts: &[&'static str]) -> impl Fn(&Rows) {
        let start = start.clone();
        let texts = texts.to_vec();
        move |rows: &Rows| {
            for text in &texts {
                assert_eq!(count(rows, text), 1, "{text} in {rows:?}");
            }
            for (key, row) in &start {
                assert_eq!(rows.get(key), Some(row), "{key} was overwritten");
            }
            let added = texts.iter().filter(|text| count(&start, text) == 0);
            assert_eq!(rows.len(), start.len() + added.count());
        }
    }

    fn count(rows: &Rows, text: &str) -> usize {
        rows.values()
            .filter(|(stored, age)| *stored == text && *age != Expired)
            .count()
    }

    #[test]
    fn two_senders_a_retry_and_a_fractional_message_are_each_stored_once_in_every_order() {
        let start = Rows::new();
        let senders = [
            sender("a", "7", LARGE),
            sender("b", "7", LARGE),
            sender("a", "7", LARGE),
            sender("f", "7.000001", LARGE),
        ];
        let states = explore(&start, &senders, &each_once(&start, &["a", "b", "f"]));
        assert!(states > 1000, "only {states} states were seen");
    }

    #[test]
    fn three_senders_among_existing_rows_pass_over_no_free_key() {
        let start = Rows::from([
            (key("7"), ("x", Old)),
            (key("7.000001"), ("a", Expired)),
            (key("7.000003"), ("y", Recent)),
            (key("7.000005"), ("z", Old)),
        ]);
        let senders = ["a", "b", "a"].map(|text| sender(text, "7", LARGE));
        let once = each_once(&start, &["a", "b"]);
        explore(&start, &senders, &|rows| {
            once(rows);
            assert!(rows.contains_key(&key("7.000002")) && rows.contains_key(&key("7.000004")));
        });
    }

    #[test]
    fn the_key_asked_for_is_used_once_it_is_free_again() {
        let mut placement = Placement::new(key("7"), LARGE);
        placement.lost(false);
        answer(&mut placement, &run("7.000001", 3, Old), "a");
        assert_eq!(placement.step(), Step::Put(key("7")));
    }

    #[test]
    fn a_retry_finds_its_message_behind_others_and_ignores_an_expired_twin() {
        let start = Rows::from([
            (key("7"), ("a", Expired)),
            (key("7.000001"), ("x", Old)),
            (key("7.000002"), ("y", Old)),
            (key("7.000003"), ("a", Old)),
        ]);
        explore(
            &start,
            &[sender("a", "7", LARGE), sender("b", "7", LARGE)],
            &each_once(&start, &["a", "b"]),
        );
    }

    #[test]
    fn the_same_text_at_another_time_is_not_a_retry() {
        let mut rows = Rows::from([(key("7"), ("x", Recent)), (key("7.5"), ("a", Recent))]);
        store(&mut rows, "a", "7", LARGE);
        assert_eq!(rows.get(&key("7.000001")), Some(&("a", Recent)));
    }

    // Half a page is four rows here, and at most three are added.
    #[test]
    fn each_is_stored_once_in_every_order_in_a_second_of_more_rows_than_a_page() {
        for age in [Old, Recent, Expired] {
            let start = run("7", 20, age);
            let senders = [
                sender("a", "7", 8),
                sender("b", "7", 8),
                sender("a", "7", 8),
                sender("f", "7.000012", 8),
            ];
            let once = each_once(&start, &["a", "b", "f"]);
            let states = explore(&start, &senders, &|rows| {
                once(rows);
                assert!(rows.contains_key(&key("7.000022")), "there is a gap");
            });
            assert!(states > 1000, "only {states} states were seen");
        }
    }

    #[test]
    fn a_retry_is_recognised_until_half_a_page_of_rows_came_since_wherever_they_came() {
        // A gap lies above, in and below the page's latest half.
        for above in 0..10 {
            let mut start = run("7", 10, Old);
            start.extend(run("7.5", above, Old));
            let mut stored = start.clone();
            store(&mut stored, "a", "7", 8);
            let others = [
                sender("b", "7", 8),
                sender("f", "7.5", 8),
                sender("g", "7.500002", 8),
            ];
            let once = each_once(&start, &["a", "b", "f", "g"]);
            explore(&stored, &others, &|rows| {
                let mut rows = rows.clone();
                store(&mut rows, "a", "7", 8);
                once(&rows);
            });
        }
    }

    #[test]
    fn a_retry_within_the_minute_is_recognised_as_far_as_the_second_page() {
        let mut rows = run("7", 100, Old);
        store(&mut rows, "a", "7", 4);
        // Four rows are on the first page and 12 on the second.
        for (since, copies) in [(1, 1), (3, 1), (4, 1), (15, 1), (16, 2)] {
            let mut rows = rows.clone();
            rows.extend(run("7.000101", since, Recent));
            store(&mut rows, "a", "7", 4);
            assert_eq!(count(&rows, "a"), copies, "{since} came since");
        }
    }

    #[test]
    fn the_second_page_finds_the_message_in_every_order_and_is_read_once() {
        let mut start = run("7", 30, Old);
        start.insert(key("7.00003"), ("a", Recent));
        start.extend(run("7.000031", 9, Recent));
        let senders = ["a", "b", "a"].map(|text| sender(text, "7", 8));
        explore(&start, &senders, &each_once(&start, &["a", "b"]));

        let mut placement = Placement::new(key("7"), 8);
        placement.lost(false);
        let mut limits = Vec::new();
        for _ in 0..2 {
            while let Step::Read { limit, .. } | Step::Search { limit, .. } = placement.step() {
                limits.push(limit);
                answer(&mut placement, &start, "b");
            }
            for _ in 0..MAX_LOSSES {
                placement.lost(false);
            }
        }
        assert_eq!(limits, [8, 24, 8]);
    }

    #[test]
    fn a_put_takes_at_most_four_calls_however_many_rows_its_second_has() {
        for (age, rows, calls) in [
            (Old, 0, 1),
            (Old, 1, 3),
            (Recent, 8, 3),
            (Old, 900, 3),
            (Recent, 9, 4),
            (Recent, 900, 4),
        ] {
            let mut rows = run("7", rows, age);
            assert_eq!(
                store(&mut rows, "a", "7", 8),
                calls,
                "{age:?}, {}",
                rows.len()
            );
        }
    }

    #[test]
    fn a_full_second_goes_on_in_the_next() {
        for page in [2, 8, LARGE] {
            for mut start in [run("7.999999", 1, Old), run("7.999979", 21, Recent)] {
                let asked = start.keys().next().unwrap().to_string();
                start.extend(run("8", 9, Old));
                let once = each_once(&start, &["a", "b"]);
                let senders = ["a", "b", "a"].map(|text| sender(text, &asked, page));
                explore(&start, &senders, &|rows| {
                    once(rows);
                    let next = [key("8.000009"), key("8.00001")];
                    assert!(next.iter().all(|key| rows.contains_key(key)), "{rows:?}");
                });
            }
        }
    }

    // DynamoDB may say of a full page that more rows follow when none do.
    #[test]
    fn nothing_is_read_below_the_key_asked_for() {
        let rows = run("7", 4, Recent);
        let mut placement = Placement::new(key("7"), 4);
        placement.lost(false);
        let (page, _) = page(&rows, "a", placement.step());
        placement.read(&page, true);
        assert_eq!(placement.step(), Step::Put(key("7.000004")));
    }

    #[test]
    fn after_eight_losses_the_rows_are_read_again() {
        let mut placement = Placement::new(key("7"), LARGE);
        placement.lost(false);
        let read = placement.step();
        answer(&mut placement, &run("7", 1, Old), "a");
        for loss in 1..=8 {
            assert_eq!(placement.step(), Step::Put(key(&format!("7.00000{loss}"))));
            placement.lost(false);
        }
        assert_eq!(placement.step(), read);
    }
}
