//! What blobpack guarantees, against what; what it assumes of the system; what it does not promise. Beside each line
//! stands the test that would fail without it, as `file::test` in this repository's `tests`. This module holds no code.
//!
//! # A killed process
//!
//! * What was acknowledged is there, whoever is killed at whatever moment, recovery included
//!   (`kill::whoever_is_killed_whenever_nothing_acknowledged_is_lost_and_no_reader_is_disturbed`).
//! * Readers of other processes never go back in time meanwhile, nor take what was left half made for damage
//!   (`kill::a_store_opened_beside_a_writer_that_is_still_recovering_does_not_go_back`,
//!   `kill::what_a_dead_writer_left_half_stored_is_neither_damage_nor_a_miss`).
//! * A batch is there as a whole or not at all (`crash::every_prefix_of_a_run_reopens_with_what_was_acknowledged`).
//! * A creation that is cut off leaves nothing, or an empty pack
//!   (`crash::a_creation_that_is_cut_off_leaves_nothing_or_an_empty_pack`).
//! * What the tool has printed is durable
//!   (`processes::what_the_tool_has_printed_when_it_is_killed_is_there_afterwards`).
//! * An import or export that is cut off leaves whole images, or none of it
//!   (`image_files::the_next_export_goes_on_from_whatever_a_kill_left`).
//!
//! # A power cut
//!
//! * With [`PowerLoss`](crate::Durability::PowerLoss), the default: all of the above, whatever unsynced
//!   sectors reach the disk (`crash::a_power_cut_keeps_what_was_acknowledged_whatever_unsynced_sectors_it_keeps`),
//!   also beside a checkpoint (`crash::a_power_cut_keeps_what_was_acknowledged_beside_a_checkpoint`).
//! * The same where the power fails after a process was killed and another one went on
//!   (`crash::a_power_cut_after_a_kill_keeps_what_the_next_process_acknowledged`).
//! * The same for every sequence of three operations (`crash::any_three_operations_survive_every_power_cut`).
//! * The same while a store recovers (`crash::a_crash_while_recovering_loses_nothing`), and while it recovers from that
//!   (`crash::power_cuts_in_recoveries_three_deep_lose_nothing`).
//! * With [`Process`](crate::Durability::Process): the last checkpoint is there, and of what came after it
//!   a beginning; what a kill leaves is whole
//!   (`crash::without_syncs_a_power_cut_leaves_the_last_checkpoint_and_a_prefix_and_a_kill_all`).
//!
//! # A full disk
//!
//! * What does not fit is an error that says how much is needed, with nothing changed; never a signal
//!   (`bad_input::a_full_disk_is_an_error_that_says_how_much_is_needed_and_nothing_changes`).
//! * [`RESERVED_DEREFERENCES`](crate::RESERVED_DEREFERENCES) removals work all the same
//!   (`crash::a_full_disk_refuses_writes_with_nothing_changed_and_takes_dereferences`).
//! * Both hold on ext4, tmpfs, xfs and btrfs, after a compaction, and in a copy that shares its blocks
//!   (`full_disk::on_a_full_disk_an_error_says_what_is_needed_and_references_can_be_given_up`), also where blocks are
//!   smaller than pages
//!   (`full_disk::what_does_not_fit_on_a_disk_of_small_blocks_leaves_a_pack_that_can_be_opened_there`). Not
//!   promised for a copy on btrfs that was not made to be written in place, as by `chattr +C`.
//! * So do removals of names and links (`names::names_and_links_can_be_given_up_on_a_full_disk`).
//! * A limit of bytes is kept like the end of a disk (`api::the_limit_of_bytes_is_kept_and_removals_go_on_at_it`).
//!
//! # A failing disk
//!
//! * After a write or sync that failed a handle acknowledges nothing more; reads go on; reopening finds what was
//!   acknowledged (`crash::after_any_failing_call_nothing_acknowledged_is_lost_and_reads_go_on`).
//! * What the disk failed to write is told to commits and to checkpoints, whichever syncs first: each has an open file
//!   of its own (`full_disk::what_the_disk_failed_to_write_is_told_to_commits_and_to_checkpoints`).
//!
//! # Bit rot
//!
//! * A wrong index gives a miss or an error, never wrong bytes
//!   (`rot::a_flipped_bit_of_a_closed_store_gives_right_data_or_a_named_error`).
//! * Whatever bit is flipped: all that is stored is there, or a named error, and a verification names it too
//!   (`rot::a_flipped_bit_of_a_closed_store_gives_right_data_or_a_named_error`). Of a pack whose writer was killed the
//!   newest commit may be gone, which recovery reports
//!   (`rot::a_flipped_bit_of_a_killed_store_costs_at_most_the_newest_commit`).
//! * A repair brings back all that can be; what can't be is named, with the blobs that link to it
//!   (`rot::what_a_flipped_bit_leaves_is_brought_back`, `rot::the_tool_names_what_rots_and_what_it_takes_with_it`). An
//!   index that can't be read is made anew elsewhere
//!   (`rot::the_tool_survives_a_disk_that_goes_bad_under_a_killed_store`).
//! * A sector that can't be read is a named error from a verification, a rebuild, a compaction, an inspection, and
//!   [`Blob::verify`](crate::Blob::verify) (`rot::an_unreadable_sector_is_a_named_error`,
//!   `rot::the_tool_survives_a_disk_that_goes_bad`), and from whoever recovers what a killed writer has left
//!   (`rot::an_unreadable_index_of_a_killed_store_is_a_named_error`,
//!   `rot::the_tool_survives_a_disk_that_goes_bad_under_a_killed_store`). Other reads go through the map, where it is a
//!   signal.
//! * What is lost need not stay in the pack: a compaction that is [told to](crate::CompactOptions::leave_out_damaged)
//!   leaves it out and says so, with its links and names, and all else is as it was
//!   (`leave_out::what_is_damaged_is_left_out_and_the_rest_is_as_it_was`).
//! * A torn end of the log is cut off and reported; damage before it is an error, never a silent cut
//!   (`rot::a_damaged_newest_commit_is_dropped_with_a_word`,
//!   `rot::a_damaged_chunk_frame_behind_a_sound_jump_does_not_hide_its_commits`), also where the file itself was cut
//!   off (`rot::a_file_that_was_cut_off_behind_its_older_superblock_is_damaged`).
//! * Damage is listed whole, and never stops the list (`cli::verify_lists_all_damage`).
//! * What the log holds is rebuilt from the log alone (`api::a_rebuilt_pack_is_the_same`), also where the file was cut
//!   off behind it (`rot::of_a_file_that_was_cut_off_behind_its_log_a_rebuild_keeps_all`).
//! * What a repair cuts off stays where it was, and is not written over
//!   (`rot::what_a_repair_cuts_off_is_not_written_over`).
//! * One bad page at the head of the file does not cost the store
//!   (`rot::a_version_that_only_one_copy_claims_does_not_count`).
//!
//! Payloads are as they are stored: who must know that they are whole asks [`Blob::verify`](crate::Blob::verify). The
//! tool's `get`, [`Store::verify`](crate::Store::verify) and [`Store::compact`](crate::Store::compact) always do.
//!
//! # Hostile files
//!
//! * Any bytes may be opened: the worst is a named error, soon and in little memory
//!   (`bad_input::a_mutated_pack_is_never_a_panic`, `fuzz_corpus::any_bytes_as_a_pack_are_at_worst_an_error`).
//! * A file claims what it likes: opening it takes disk and memory by what is there
//!   (`rot::a_forged_run_gets_no_more_of_the_disk_than_the_pack_has`,
//!   `fuzz_corpus::a_sparse_file_as_long_as_can_be_costs_neither_time_nor_memory_nor_disk`).
//! * What is sealed with valid checksums and contradicts itself is found
//!   (`bad_input::what_is_sealed_in_a_sound_pack_is_found`).
//! * A frame that stands in a payload is never replayed (`rot::a_frame_in_a_payload_is_not_taken_for_one`), and digests
//!   that were ground to look alike fill no bucket
//!   (`limits::blobs_whose_digests_were_ground_to_begin_alike_fill_the_index_like_any_others`).
//! * An image or tree from a stranger never leads outside its target, and is stored as a whole or not at all
//!   (`image_tree::no_manifest_leads_out_of_the_target`,
//!   `images::a_bad_layout_is_refused_by_the_name_of_the_part_and_changes_nothing`).
//! * A chain of any length is removed on a small stack and in bounded memory, but for three bytes a blob
//!   (`limits::a_long_chain_is_freed_on_a_small_stack_and_in_bounded_memory`), all at once
//!   (`limits::a_removal_in_parts_is_there_as_a_whole_or_not_at_all_wherever_it_is_cut_off`). That is so for a
//!   dereference, an unlink or the removal of a name by itself; in a batch with others, and where a name is given to
//!   another blob, what goes takes half a KiB of memory a blob.
//!
//! # Other processes and threads
//!
//! * One process writes; another one is turned away, or waits
//!   (`processes::a_second_writer_is_turned_away_until_the_first_one_is_gone`).
//! * Any number read beside it, wait for nobody, and see each commit once it is durable
//!   (`processes::a_reader_in_another_process_sees_each_commit_once_it_is_acknowledged`).
//! * No reader goes back in time, also where the writer dies and the next one recovers
//!   (`kill::a_store_opened_beside_a_writer_that_is_still_recovering_does_not_go_back`).
//! * Readers follow a compaction to the new file; blobs that are held stay readable
//!   (`processes::readers_follow_a_compaction_in_another_process_to_the_new_file`,
//!   `api::a_blob_outlives_its_removal_a_compaction_and_the_store`).
//! * A reader changes nothing on the disk (`crash::a_reader_of_what_a_crash_left_changes_nothing`).
//! * A checkpoint that is due comes by itself, beside the commits; a store that was closed has none on its way
//!   (`api::a_checkpoint_comes_by_itself_and_a_closed_store_has_none_on_its_way`).
//! * Threads end where each alone would (`threads::writers_and_readers_in_many_threads_end_where_each_alone_would`,
//!   `interleavings::a_record_is_found_while_its_segment_is_split`).
//!
//! # Packs of earlier versions
//!
//! * A pack of version 1 is read, recovered, rebuilt and compacted by all later blobpacks of version 1
//!   (`golden::a_pack_of_version_1_is_recovered_rebuilt_and_compacted_as_ever`).
//! * One that an older blobpack would misread says so by a feature flag, before it holds anything such
//!   (`names::both_superblocks_announce_names_before_there_is_one_and_until_a_compaction_finds_none`).
//!
//! # What is assumed
//!
//! Of the disk and the file system:
//!
//! * A sync that returned has reached the disk, with the file's length and whatever else is needed to read its range.
//! * A sector of 512 bytes that was synced, and is overwritten, holds its old or its new bytes after a power cut, not a
//!   mixture, and its neighbours are as they were.
//! * What the disk has failed to write does not reach it any more once something older was read from it. (What was read
//!   may still be lost, as if it was never written.)
//! * A rename is atomic, and durable once the directory was synced.
//! * A write by a system call and a store through a shared map are seen by all processes of the machine, at once.
//! * Locks by `flock` work between the processes that use the pack. ext4, xfs, btrfs and tmpfs are such file systems.
//!
//! Of SHA-256, SHA-384 and SHA-512: nobody finds two blobs with one digest. Of the system's random numbers: nobody
//! guesses the secret and the frame marker that a new pack draws.
//!
//! # What is not promised
//!
//! * **Files that others change.** Another program that writes into a pack, or truncates it while it is mapped, can do
//!   anything, a signal (`SIGBUS`) included. Who can't rule that out reads by
//!   [`Blob::read_at`](crate::Blob::read_at).
//! * **A pack that is moved, replaced or removed while it is open.** Who has it open goes on with the file, wherever it
//!   is, and what is committed to one without a name goes with it. A compaction [refuses](crate::Error::Moved).
//! * **Network and FUSE file systems**, where maps or locks are not shared between all who use a pack.
//! * **A limit on the length of a process's files** (`ulimit -f`): the system sends `SIGXFSZ`, which ends who does not
//!   ignore it. Who does is told as of a full disk.
//! * **A pack in a lower layer of an overlay**: to who has it open for reading when it is first opened for writing it
//!   stays as it was. The system copies it then, and goes on with the copy.
//! * **A copy of a pack that is being written** (`cp`, a backup of the running system) is of no one moment. It
//!   opens, and what is wrong with its blobs is named, or it says that it is damaged
//!   (`rot::a_copy_of_no_one_moment_opens_or_says_that_it_is_damaged`). Close the store, take a snapshot of the file
//!   system, or compact with an [output](crate::CompactOptions::output) elsewhere.
//! * **`fork`.** A store is opened after it, not before: a child that has inherited one must neither use it nor let go
//!   of it (`exec` and `_exit` are fine). A commit may have started a thread, for a checkpoint or to go ahead of a
//!   large batch: the child has what that has locked, and not the thread.
//! * **A failing disk where a pack can be opened only once** (`/proc` is not mounted and another file has its name, or
//!   no descriptor is left), while a checkpoint and a commit sync at one moment. The first sync of an open file alone
//!   is told of a write that failed. If that is the checkpoint's, the commit may be acknowledged in the instant before
//!   the handle is poisoned, though its bytes are not on the disk.
//! * **Hiding.** Payloads are not encrypted, and stay in the file until a compaction after they were removed; on many
//!   disks longer.
//! * **Availability against a hostile writer.** Who may write a pack may remove what is in it.
