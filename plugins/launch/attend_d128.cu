// Decode attention for head dim 128.
#include "attend_dispatch.cuh"

template innerq_status innerq::launch_attend_for<128>(const AttendChoice &choice);
