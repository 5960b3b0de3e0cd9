//! One stolen account that takes what there is: memory, ports, the disk, the records.
