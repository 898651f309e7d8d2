"""A trainer that shards its model on CPUs, which accelerate leaves to devices of their own."""

from trainers.trainer import Trainer


class ShardedOnCpu(Trainer):
    """Takes its ranks for ones with devices, so that accelerate lets torch shard the model, over gloo."""

    def start(self) -> None:
        from accelerate import state

        begin = state.PartialState.__init__

        def init(self, *args, **kwargs):
            begin(self, *args, **kwargs)
            if self.distributed_type == state.DistributedType.MULTI_CPU:
                self.distributed_type = state.DistributedType.MULTI_GPU

        state.PartialState.__init__ = init
        super().start()
