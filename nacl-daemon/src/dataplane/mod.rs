//! The kernel side: load, attach, switch, read counters and events. The only room that imports aya.
