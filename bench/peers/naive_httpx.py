"""What a Python engineer writes in an afternoon: one httpx.AsyncClient, a task a session, aiokafka."""

import argparse
import asyncio
import json
import signal

import httpx
from aiokafka import AIOKafkaProducer

PATH = "/api/v1alpha1/asm/asmapi/getstatus"


async def watch(client, producer, given, number):
    sid = str(1000000 + number)
    headers = {"Authorization": f"Bearer tok-{number}"}
    body = {"asm_session_sid": sid, "perform_get_queued_calls": True, "perform_get_message": True,
            "minimum_message_timestamp": "0", "skills": [], "events": []}  # fmt: skip
    before = None
    while True:
        try:
            response = await client.post(given.base + PATH, json=body, headers=headers)
            response.raise_for_status()
            status = response.json()
            if status != before:
                await producer.send_and_wait(given.topic, json.dumps(status).encode(), key=sid.encode())
                before = status
        except Exception as error:  # noqa: BLE001 - as such scripts do
            print(f"session {sid}: {error!r}", flush=True)
        await asyncio.sleep(given.interval)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--interval", type=float, default=1.0)
    given = parser.parse_args()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    producer = AIOKafkaProducer(bootstrap_servers=given.brokers, acks="all", enable_idempotence=True)
    await producer.start()
    async with httpx.AsyncClient(timeout=10) as client:
        tasks = [asyncio.create_task(watch(client, producer, given, number)) for number in range(given.sessions)]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await producer.stop()


asyncio.run(main())
