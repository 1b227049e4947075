//! Messages on their way from the brokers into the queue, and the lag that remains.

pub(crate) mod lag;
pub(crate) mod pauses;
pub(crate) mod pump;
pub(crate) mod read_ahead;
pub(crate) mod read_size;
