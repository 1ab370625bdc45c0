// A member of a consumer group, with kafkajs. Its protocol is that of tests/interop/group_server.py.
//
//     node member.js BOOTSTRAP TOPIC GROUP SESSION_MS HEARTBEAT_MS

"use strict";

const readline = require("node:readline");
const { Kafka, logLevel } = require("kafkajs");

const [bootstrap, topic, groupId, sessionMs, heartbeatMs] = process.argv.slice(2);

const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR });
const consumer = kafka.consumer({
  groupId,
  sessionTimeout: Number(sessionMs),
  heartbeatInterval: Number(heartbeatMs),
  // Heartbeats are sent between fetches, so these must not be waited for long.
  maxWaitTimeInMs: 50,
});
const next = new Map(); // By partition, the offset behind what was read.

function tell(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

async function commit() {
  const offsets = [...next].map(([partition, offset]) => ({ topic, partition, offset: `${offset}` }));
  await consumer.commitOffsets(offsets);
  tell({ name: "committed" });
}

async function leave() {
  await consumer.disconnect();
  process.exit(0);
}

async function main() {
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    next.clear();
    tell({ name: "assigned", partitions: payload.memberAssignment[topic] ?? [] });
  });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      const offset = Number(message.offset);
      next.set(partition, offset + 1);
      tell({ name: "record", partition, offset });
    },
  });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line === "commit") await commit();
    else if (line === "leave") break;
    else throw new Error(`no such command: ${line}`);
  }
  await leave();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
