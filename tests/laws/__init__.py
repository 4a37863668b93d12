"""The laws that Aster keeps, each proved by properties: one file a law, run on both backends over memory, over QUIC and over a simulated network.

How a law's test is written::

    @exercises("cancelled in an await", "cancelled in a yield")
    @given(plan=plans())
    async def test_what_is_promised(world: World, plan: Plan) -> None:
        ...                                 # make calls of world.actor, whose handlers carry out the plan and keep a record of it
        world.count("cancelled in a yield")
        await world.quiet()                 # until all calls are over at both ends
        assert world.run(plan).finals == 1

A test that counted nothing of what it says it exercises fails, and so does one that draws so little that it runs out of examples. ``simulated=("lost",)`` asks
besides that a simulated network lost something meanwhile. What chance may miss is given by ``@example``.

All examples of a file share one server and one client, so a test leaves them as they were. One that ends connections makes its own with ``world.fresh()``.
Time is virtual over memory and over the simulated network; over QUIC packets come in real time, so there a test waits for what happens, not for the clock.
"""
