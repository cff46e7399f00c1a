// Decode attention for head dim 64.
#include "attend_dispatch.cuh"

template innerq_status innerq::launch_attend_for<64>(const AttendChoice &choice);
