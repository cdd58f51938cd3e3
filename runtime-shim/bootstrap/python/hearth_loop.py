"""The main thread's asyncio loop, and the way of calls onto it."""

import asyncio

import hearth_logs
import hearth_threads


class Loop:
    def __init__(self, instance, work):
        self._instance = instance
        self._work = work
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self._tasks = set()

    # Frames thread.

    def start(self, calls):
        # The list is the connection's, and used again.
        self.loop.call_soon_threadsafe(self._begin, list(calls))

    def ping(self, give):
        """Answered by the loop, so that one that is blocked is noticed."""
        self.loop.call_soon_threadsafe(give)

    # Main thread.

    def run(self):
        self.loop.run_forever()

    def _begin(self, calls):
        for call in calls:
            task = self.loop.create_task(self._run(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, call):
        hearth_logs.begin(call)
        task = asyncio.current_task()
        call.on_cancel = lambda: self.loop.call_soon_threadsafe(self._cancel, call, task)
        try:
            if not call.cancelled:
                await self._work(call)
        except asyncio.CancelledError:
            # Of this call. Nothing else cancels its task but the handler itself.
            if not call.cancelled:
                call.fail("CancelledError", "the handler was cancelled from within")
        except (KeyboardInterrupt, SystemExit, Exception) as error:
            hearth_threads.failed(call, error)
        if not call.over:
            call.finish()

    def _cancel(self, call, task):
        if not call.over:
            task.cancel()

    def waiter(self):
        event = asyncio.Event()
        return event, lambda: self.loop.call_soon_threadsafe(event.set)

    async def read_all(self, call):
        pieces = []
        async for piece in self.pieces(call):
            pieces.append(piece)
        return b"".join(pieces)

    async def pieces(self, call):
        """The body, as it comes."""
        event, notify = self.waiter()
        with call.lock:
            call.on_body = notify
        while True:
            data, ended = call.take_body()
            if data:
                yield data
            if ended:
                return
            await event.wait()
            event.clear()

    async def write_all(self, call, data):
        """Sends a piece of an answer, waiting for credit; false when nobody wants it any more."""
        event = None
        view = memoryview(data)
        while view:
            if call.cancelled or call.over:
                return False
            taken = call.take_window(min(len(view), 256 * 1024))
            if taken == 0:
                if event is None:
                    event, notify = self.waiter()
                    with call.lock:
                        call.on_window = notify
                    continue
                await event.wait()
                event.clear()
                continue
            call.piece(bytes(view[:taken]))
            view = view[taken:]
        return not call.cancelled
