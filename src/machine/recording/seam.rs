//! Where audio begins anew: no click between what follows each other, and no packet lost to one that lies some samples too far.

/// Of a second: audio that begins anew this little before the end of what is there, 100 ms, begins behind it.
const BEHIND: i64 = 10;
/// Of a second: audio that begins anew this little behind the end of what is there, 5 ms, begins at it.
const CLOSE: i64 = 200;
/// Of its samples: by what a packet comes nearer to its course if it does not lie on it.
const NEARER: i64 = 200;

/// The course that a stream is on, and how far beside it what comes is put.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seam {
    course: Option<(u32, usize)>,
    beside: i64,
}

impl Seam {
    /// The place of a packet that lies at `at.0` on its course and has `at.1` samples, and what silence (or overlap, if it is
    /// negative) lies before it because its source began anew. `head`: end of all that is there.
    pub(super) fn place(
        &mut self,
        (at, samples): (i64, i64),
        course: (u32, usize),
        is_newest: bool,
        head: i64,
        rate: u32,
    ) -> (i64, i64) {
        if self.course == Some(course) || !is_newest {
            if is_newest && self.beside != 0 {
                let nearer = (samples / NEARER).max(1).min(self.beside.abs());
                self.beside -= self.beside.signum() * nearer;
            }
            return (at + self.beside, 0);
        }
        let rate = i64::from(rate);
        let beside = head - at;
        let is_close = head > 0 && (-rate / CLOSE..=rate / BEHIND).contains(&beside);
        self.beside = if is_close { beside } else { 0 };
        let is_first = self.course.replace(course).is_none();
        (at + self.beside, if is_first { 0 } else { -beside })
    }
}
