"""The checker of promises: clients that write down what they were told, and a judge who compares.

    python -m bench.checker --kills 20 --seconds 60 --data DIR

Idempotent producers append with acks=all through librdkafka and journal every attempt and every
acknowledgement; a consumer follows and journals every record that it is shown. Meanwhile the server
is killed (SIGKILL, by its id) at random times and started again on the same ports and the same
directory. At the end the log is read by two clients of different authors and once more after a
restart, and the journal is judged:

* every acknowledged record is there, once, at the offset that was acknowledged, with the same
  bytes;
* an attempt whose end nobody knows is there at most once, and nothing is there that nobody sent;
* a producer's records are in the order in which it sent them, and a record that was acknowledged
  before another was sent has the lower offset;
* what the consumer was shown is still there, and it was shown all of it, in order, without a gap.

The program shares no code with the server and never reads its files. A run in which nothing was
acknowledged or nothing was killed is not a pass: it is a failure of the checker itself.
"""
